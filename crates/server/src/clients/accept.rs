//! Taking connections.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use kvorum_node::Door;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::lane::Lane;

/// Connections that may wait to be taken.
const BACKLOG: i32 = 1024;
/// Pause after a failed accept: out of descriptors, mostly, which only time can change.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client that is silent for so long is asked by TCP whether it is still there, every
/// [`KEEPALIVE_INTERVAL`].
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// A bound address, which refuses connections until it listens.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    /// The setting that it comes from.
    name: &'static str,
    /// The address, with the port that was chosen where 0 was asked for.
    pub address: SocketAddr,
}

/// Takes an address without listening on it yet: a port in use is noticed at the start, and nobody's
/// connection waits while the data is loaded.
///
/// # Errors
/// With a sentence for the operator.
pub fn bind(address: SocketAddr, name: &'static str) -> Result<Bound, String> {
    let make = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restart must not wait for old connections to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Bound {
            socket,
            name,
            address: bound,
        })
    };
    make()
        .map_err(|error: std::io::Error| format!("cannot listen on {address} (--{name}): {error}"))
}

fn cannot_listen(address: SocketAddr, name: &str, error: &std::io::Error) -> String {
    format!("cannot listen on {address} (--{name}): {error}")
}

impl Bound {
    /// Starts to listen, on the runtime of the calling thread.
    ///
    /// # Errors
    /// As the system says, with the address: two processes may both have taken it before one listens.
    pub fn listen(self) -> std::io::Result<TcpListener> {
        let listening = self.socket.listen(BACKLOG);
        listening
            .and_then(|()| TcpListener::from_std(self.socket.into()))
            .map_err(|error| {
                std::io::Error::new(error.kind(), cannot_listen(self.address, self.name, &error))
            })
    }
}

/// Takes clients of one of the two ports for ever.
pub(crate) async fn accept_clients(lane: Rc<Lane>, listener: TcpListener, door: Door) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => admit(&lane, stream, address, door),
            Err(error) => {
                tracing::warn!("cannot accept a client: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(lane: &Rc<Lane>, stream: TcpStream, address: SocketAddr, door: Door) {
    if lane.clients_open() >= lane.max_clients() {
        lane.metrics().clients_refused.one();
        // The socket is new and its buffer empty: this does not block, and may be lost.
        let _ = SockRef::from(&stream).send(b"-ERR max number of clients reached\r\n");
        return;
    }
    tune(&stream, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL);
    lane.metrics().clients_accepted.one();
    lane.admit(stream, address, door);
}

/// Sends at once, and notices a vanished other side.
pub(crate) fn tune(stream: &TcpStream, idle: Duration, interval: Duration) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
