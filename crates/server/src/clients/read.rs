//! Reading from clients.
//!
//! One task for each connection, and one buffer for all of them: a read borrows the shared scratch only
//! within its poll, and the core takes from it what it needs. Reading with `poll_read` matters: a read
//! that does not fill the buffer tells tokio that the socket is empty, where `try_read` would ask the
//! kernel once more after every request.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use kvorum_base::ConnId;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use super::keeper::{Keeper, Kept};

/// Reads until the connection ends.
pub(crate) async fn read_client<K: Keeper>(keeper: Rc<K>, conn: ConnId, mut socket: OwnedReadHalf) {
    std::future::poll_fn(|context| poll(&mut *keeper.kept(), conn, &mut socket, context)).await;
}

fn poll(
    core: &mut impl Kept,
    conn: ConnId,
    socket: &mut OwnedReadHalf,
    context: &mut Context<'_>,
) -> Poll<()> {
    loop {
        let Some(client) = core.clients().get(conn) else {
            return Poll::Ready(());
        };
        if client.paused {
            client.paused_reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut buffer = ReadBuf::new(core.scratch());
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
            core.ended(conn);
            return Poll::Ready(());
        }
        core.took(conn, len);
        if len == core.scratch().len() {
            // More may be waiting. Everybody else first, and the driver, which may call for a pause.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}
