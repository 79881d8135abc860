//! The router's clients: taking their connections.

use std::rc::Rc;

use kvorum_router::Event;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::hub::Hub;
use crate::clients::accept::{ACCEPT_PAUSE, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, tune};
use crate::clients::read::read_client;

/// Takes clients for ever.
pub(crate) async fn accept_clients(hub: Rc<Hub>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => admit(&hub, stream, &address.to_string()),
            Err(error) => {
                tracing::warn!("cannot accept a client: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(hub: &Rc<Hub>, stream: TcpStream, address: &str) {
    if hub.core().clients.open() >= hub.max_clients {
        hub.shared.metrics.clients_refused.one();
        // The socket is new and its buffer empty: this does not block, and may be lost.
        let _ = SockRef::from(&stream).send(b"-ERR max number of clients reached\r\n");
        return;
    }
    tune(&stream, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL);
    let (read, write) = stream.into_split();
    let conn = hub.core().clients.insert(write);
    let task = tokio::task::spawn_local(read_client(hub.clone(), conn, read));
    let mut core = hub.core();
    core.clients.set_reader(conn, task.abort_handle());
    core.step(Event::Opened { conn, address });
}
