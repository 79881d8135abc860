//! Writing to clients.
//!
//! The driver writes each connection's output once a turn, itself: waking a task for it would cost more
//! than the write. Only a socket that did not take everything gets a task, which ends when it has.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use kvorum_base::ConnId;
use kvorum_resp::OutBuf;
use tokio::net::tcp::OwnedWriteHalf;

use super::keeper::{Keeper, Kept};

/// Parts written at once.
const SLICES: usize = 64;
/// How long a connection that is to be closed may take its last output.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// Writes what the socket takes: the bytes written, and whether that was all.
pub(crate) fn write_out(socket: &OwnedWriteHalf, out: &mut OutBuf) -> io::Result<(u64, bool)> {
    let mut written = 0;
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(out.parts()) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        match socket.try_write_vectored(&slices[..count]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => {
                out.advance(len);
                written += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((written, false)),
            Err(error) => return Err(error),
        }
    }
    Ok((written, true))
}

/// What became of a connection's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Drained,
    Blocked,
    Dead,
}

/// Writes a connection's output, in the driver. A blocked one gets a task.
pub(crate) fn output<K: Keeper>(core: &mut K::Core, keeper: &Rc<K>, conn: ConnId) {
    if core.clients().get(conn).is_none_or(|client| client.blocked) {
        return;
    }
    match write(core, conn) {
        Progress::Drained => {}
        Progress::Dead => core.died(conn),
        Progress::Blocked => {
            if let Some(client) = core.clients().get(conn) {
                client.blocked = true;
            }
            let keeper = keeper.clone();
            tokio::task::spawn_local(async move {
                std::future::poll_fn(|context| poll(&mut *keeper.kept(), conn, context)).await;
            });
        }
    }
}

/// Closes a connection once its output is written.
pub(crate) fn close_after_output<K: Keeper>(core: &mut K::Core, keeper: &Rc<K>, conn: ConnId) {
    let Some(client) = core.clients().get(conn) else {
        return;
    };
    client.closing = true;
    client.paused = true;
    output(core, keeper, conn);
    if core
        .clients()
        .get(conn)
        .is_some_and(|client| !client.blocked)
    {
        core.died(conn);
        return;
    }
    let keeper = keeper.clone();
    tokio::task::spawn_local(async move {
        tokio::time::sleep(CLOSE_PATIENCE).await;
        keeper.kept().close(conn);
    });
}

fn write(core: &mut impl Kept, conn: ConnId) -> Progress {
    let Some((socket, output)) = core.socket_and_output(conn) else {
        return Progress::Dead;
    };
    // A connection that was forgotten inside has nothing to say.
    let Some(output) = output else {
        return Progress::Drained;
    };
    match write_out(socket, output) {
        Ok((bytes, drained)) => {
            core.wrote(bytes);
            if drained {
                Progress::Drained
            } else {
                Progress::Blocked
            }
        }
        Err(_) => Progress::Dead,
    }
}

/// Goes on with a blocked connection's output.
fn poll(core: &mut impl Kept, conn: ConnId, context: &mut Context<'_>) -> Poll<()> {
    loop {
        match write(core, conn) {
            Progress::Dead => {
                core.close(conn);
                return Poll::Ready(());
            }
            Progress::Drained => {
                let Some(client) = core.clients().get(conn) else {
                    return Poll::Ready(());
                };
                client.blocked = false;
                if client.closing {
                    core.close(conn);
                } else {
                    core.drained(conn);
                }
                return Poll::Ready(());
            }
            Progress::Blocked => {
                let Some(client) = core.clients().get(conn) else {
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
