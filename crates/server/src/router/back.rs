//! The router's links to nodes: dialling, reading and writing them.
//!
//! A link is a socket and a flag. What is on it, and what becomes of that when it breaks, the brain knows: it
//! counts the bytes that the socket took.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use kvorum_router::{Event, LinkId};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::AbortHandle;

use super::hub::{Core, Hub};
use crate::clients::accept::tune;
use crate::clients::write::write_out;

/// How long a node may take to accept a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);
/// A node that is silent for so long is asked by TCP whether it is still there, every as many seconds.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// One link's socket.
#[derive(Debug)]
pub(crate) struct LinkSocket {
    socket: OwnedWriteHalf,
    /// The task that reads.
    reader: AbortHandle,
    /// The socket took less than everything; a task writes the rest.
    blocked: bool,
}

impl Drop for LinkSocket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Connects to a node and tells the brain how that went.
pub(crate) async fn dial(hub: Rc<Hub>, link: LinkId, address: String) {
    let connecting = tokio::time::timeout(DIAL_PATIENCE, TcpStream::connect(&address));
    let reason = match connecting.await {
        Ok(Ok(stream)) => return connected(&hub, link, stream),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    let reason = &reason;
    hub.core().step(Event::LinkDown { link, reason });
}

fn connected(hub: &Rc<Hub>, link: LinkId, stream: TcpStream) {
    tune(&stream, KEEPALIVE, KEEPALIVE);
    let (read, socket) = stream.into_split();
    let task = tokio::task::spawn_local(read_link(hub.clone(), link, read));
    let socket = LinkSocket {
        socket,
        reader: task.abort_handle(),
        blocked: false,
    };
    let mut core = hub.core();
    if core.router.link_output(link).is_none() {
        // The brain has given it up meanwhile.
        return;
    }
    core.links.insert(link, socket);
    core.step(Event::LinkUp { link });
}

/// Reads until the link ends.
async fn read_link(hub: Rc<Hub>, link: LinkId, mut socket: OwnedReadHalf) {
    std::future::poll_fn(|context| poll_read(&mut hub.core(), link, &mut socket, context)).await;
}

fn poll_read(
    core: &mut Core,
    link: LinkId,
    socket: &mut OwnedReadHalf,
    context: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if !core.links.contains_key(&link) {
            return Poll::Ready(());
        }
        let mut buffer = ReadBuf::new(&mut core.scratch);
        let reason = match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => "the node closed it".to_owned(),
            Poll::Ready(Ok(())) => {
                let len = buffer.filled().len();
                core.link_bytes(link, len);
                if len == core.scratch.len() {
                    // More may be waiting. Everybody else first.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            Poll::Ready(Err(error)) => error.to_string(),
        };
        core.link_broke(link, &reason);
        return Poll::Ready(());
    }
}

impl Core {
    /// Forgets a link's socket and tells the brain, once.
    pub(crate) fn link_broke(&mut self, link: LinkId, reason: &str) {
        if self.links.remove(&link).is_some() {
            self.step(Event::LinkDown { link, reason });
        }
    }

    /// Writes a link's output, in the driver. A blocked one gets a task.
    pub(crate) fn link_output(&mut self, hub: &Rc<Hub>, link: LinkId) {
        if self.links.get(&link).is_none_or(|socket| socket.blocked) {
            return;
        }
        match self.write_link(link) {
            Ok(true) => {}
            Err(reason) => self.broken.push((link, reason)),
            Ok(false) => {
                if let Some(socket) = self.links.get_mut(&link) {
                    socket.blocked = true;
                }
                let hub = hub.clone();
                tokio::task::spawn_local(async move {
                    std::future::poll_fn(|context| poll_write(&mut hub.core(), link, context))
                        .await;
                });
            }
        }
    }

    /// Writes what the socket takes; says whether that was all.
    fn write_link(&mut self, link: LinkId) -> Result<bool, String> {
        let Some(socket) = self.links.get(&link) else {
            return Ok(true);
        };
        let Some(out) = self.router.link_output(link) else {
            return Ok(true);
        };
        let (bytes, drained) = write_out(&socket.socket, out).map_err(|error| error.to_string())?;
        self.shared.metrics.link_bytes_out.add(bytes);
        Ok(drained)
    }
}

/// Goes on with a blocked link's output.
fn poll_write(core: &mut Core, link: LinkId, context: &mut Context<'_>) -> Poll<()> {
    loop {
        match core.write_link(link) {
            Err(reason) => {
                core.link_broke(link, &reason);
                return Poll::Ready(());
            }
            Ok(true) => {
                if let Some(socket) = core.links.get_mut(&link) {
                    socket.blocked = false;
                    core.step(Event::LinkDrained { link });
                }
                return Poll::Ready(());
            }
            Ok(false) => {
                let Some(socket) = core.links.get(&link) else {
                    return Poll::Ready(());
                };
                match socket.socket.as_ref().poll_write_ready(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(_) => {}
                }
            }
        }
    }
}
