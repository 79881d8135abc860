//! The router's clients: taking, reading and writing their connections, as a node does.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use kvorum_base::ConnId;
use kvorum_router::Event;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};

use super::hub::{Core, Hub};
use crate::clients::accept::{ACCEPT_PAUSE, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, tune};
use crate::clients::write::{CLOSE_PATIENCE, write_out};

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

/// Reads until the connection ends.
async fn read_client(hub: Rc<Hub>, conn: ConnId, mut socket: OwnedReadHalf) {
    std::future::poll_fn(|context| poll_read(&mut hub.core(), conn, &mut socket, context)).await;
}

fn poll_read(
    core: &mut Core,
    conn: ConnId,
    socket: &mut OwnedReadHalf,
    context: &mut Context<'_>,
) -> Poll<()> {
    loop {
        let Some(client) = core.clients.get(conn) else {
            return Poll::Ready(());
        };
        if client.paused {
            client.paused_reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut buffer = ReadBuf::new(&mut core.scratch);
        let len = match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => buffer.filled().len(),
            Poll::Ready(Err(_)) => {
                core.close(conn);
                return Poll::Ready(());
            }
        };
        if len == 0 {
            // It sends no more. It may still read: what it asked for is answered first.
            core.step(Event::Ended { conn });
            return Poll::Ready(());
        }
        core.client_bytes(conn, len);
        if len == core.scratch.len() {
            // More may be waiting. Everybody else first, and the driver, which may call for a pause.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}

/// What became of a connection's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Drained,
    Blocked,
    Dead,
}

impl Core {
    /// Writes a client's output, in the driver. A blocked one gets a task.
    pub(crate) fn output(&mut self, hub: &Rc<Hub>, conn: ConnId) {
        if self.clients.get(conn).is_none_or(|client| client.blocked) {
            return;
        }
        match self.write(conn) {
            Progress::Drained => {}
            Progress::Dead => self.dead.push(conn),
            Progress::Blocked => {
                if let Some(client) = self.clients.get(conn) {
                    client.blocked = true;
                }
                let hub = hub.clone();
                tokio::task::spawn_local(async move {
                    std::future::poll_fn(|context| poll_write(&mut hub.core(), conn, context))
                        .await;
                });
            }
        }
    }

    /// Closes a connection once its output is written.
    pub(crate) fn close_after_output(&mut self, hub: &Rc<Hub>, conn: ConnId) {
        let Some(client) = self.clients.get(conn) else {
            return;
        };
        client.closing = true;
        client.paused = true;
        self.output(hub, conn);
        if self.clients.get(conn).is_some_and(|client| !client.blocked) {
            self.dead.push(conn);
            return;
        }
        let hub = hub.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(CLOSE_PATIENCE).await;
            hub.core().close(conn);
        });
    }

    fn write(&mut self, conn: ConnId) -> Progress {
        let Some(client) = self.clients.get(conn) else {
            return Progress::Dead;
        };
        // A connection that the brain has forgotten has nothing to say.
        let Some(out) = self.router.output(conn) else {
            return Progress::Drained;
        };
        match write_out(&client.socket, out) {
            Ok((bytes, drained)) => {
                self.shared.metrics.client_bytes_out.add(bytes);
                if drained {
                    Progress::Drained
                } else {
                    Progress::Blocked
                }
            }
            Err(_) => Progress::Dead,
        }
    }
}

/// Goes on with a blocked connection's output.
fn poll_write(core: &mut Core, conn: ConnId, context: &mut Context<'_>) -> Poll<()> {
    loop {
        match core.write(conn) {
            Progress::Dead => {
                core.close(conn);
                return Poll::Ready(());
            }
            Progress::Drained => {
                let Some(client) = core.clients.get(conn) else {
                    return Poll::Ready(());
                };
                client.blocked = false;
                if client.closing {
                    core.close(conn);
                } else {
                    core.step(Event::Drained { conn });
                }
                return Poll::Ready(());
            }
            Progress::Blocked => {
                let Some(client) = core.clients.get(conn) else {
                    return Poll::Ready(());
                };
                match client.socket.as_ref().poll_write_ready(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(_) => {}
                }
            }
        }
    }
}
