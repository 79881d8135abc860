//! One link, once both sides are convinced of each other.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use kvorum_base::NodeId;
use kvorum_node::{Event, Link};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::dial::PeerAddress;
use super::frames::Frames;
use super::handshake::link_number;
use crate::lane::{Core, Lane};

/// Pieces written at once.
const SLICES: usize = 64;
/// Bytes that may wait on a link. A frame is taken all the same if nothing waits: the largest entry
/// must pass.
const fn queue_bytes_max(link: Link) -> usize {
    match link {
        Link::Urgent => 1 << 20,
        Link::Bulk => 32 << 20,
    }
}

/// The sending side of a link.
#[derive(Debug)]
pub(crate) struct LinkOut {
    socket: OwnedWriteHalf,
    serial: u64,
    reader: Option<AbortHandle>,
    /// Dropped with the link: whoever dialled it waits for that.
    _ended: oneshot::Sender<()>,
    queue: VecDeque<Bytes>,
    queue_bytes: usize,
    /// The socket took less than everything; a task writes the rest.
    blocked: bool,
}

impl LinkOut {
    /// Writes what the socket takes: whether that was all.
    fn write(&mut self) -> io::Result<bool> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            match self.socket.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.advance(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn advance(&mut self, mut len: usize) {
        self.queue_bytes -= len;
        while len > 0 {
            let front = self
                .queue
                .front_mut()
                .expect("what was written was in the queue");
            if len < front.len() {
                front.advance(len);
                return;
            }
            len -= front.len();
            self.queue.pop_front();
        }
    }
}

impl Core {
    /// Takes over an established link, in place of an earlier one to the same node.
    /// What is returned resolves when the link has ended.
    pub(crate) fn link_up(
        &mut self,
        lane: &Rc<Lane>,
        node: NodeId,
        link: Link,
        stream: TcpStream,
    ) -> oneshot::Receiver<()> {
        let key = (node, link_number(link));
        if let Some(serial) = self.peers.links.get(&key).map(|old| old.serial) {
            self.link_down(node, link, serial, "replaced by a new connection");
        }
        let (read, socket) = stream.into_split();
        let serial = self.peers.next_serial();
        let (end, ended) = oneshot::channel();
        let out = LinkOut {
            socket,
            serial,
            reader: None,
            _ended: end,
            queue: VecDeque::new(),
            queue_bytes: 0,
            blocked: false,
        };
        self.peers.links.insert(key, out);
        let task = tokio::task::spawn_local(read_link(lane.clone(), node, link, serial, read));
        if let Some(out) = self.peers.links.get_mut(&key) {
            out.reader = Some(task.abort_handle());
        }
        tracing::info!(peer = %node, ?link, "link up");
        ended
    }

    /// Forgets a link, unless another has taken its place, and tells the core.
    pub(crate) fn link_down(&mut self, node: NodeId, link: Link, serial: u64, reason: &str) {
        let key = (node, link_number(link));
        if self
            .peers
            .links
            .get(&key)
            .is_none_or(|out| out.serial != serial)
        {
            return;
        }
        if let Some(reader) = self.peers.links.remove(&key).and_then(|out| out.reader) {
            reader.abort();
        }
        self.metrics.peer_resets.one();
        tracing::info!(peer = %node, ?link, "link down: {reason}");
        self.step(Event::PeerReset { node });
    }

    /// These are the other nodes from now on.
    pub(crate) fn follow_peers(&mut self, lane: &Rc<Lane>, peers: Vec<PeerAddress>) {
        for node in self.mesh.follow(lane, peers) {
            for link in [Link::Urgent, Link::Bulk] {
                let open = self.peers.get(node, link).map(|out| out.serial);
                if let Some(serial) = open {
                    self.link_down(node, link, serial, "the node is gone");
                }
            }
        }
    }

    /// Sends a frame, or drops it.
    pub(crate) fn send(&mut self, lane: &Rc<Lane>, node: NodeId, link: Link, frame: Vec<Bytes>) {
        let len: usize = frame.iter().map(Bytes::len).sum();
        let Some(out) = self.peers.get(node, link) else {
            self.metrics.peer_frames_dropped.one();
            return;
        };
        if out.queue_bytes > 0 && out.queue_bytes + len > queue_bytes_max(link) {
            self.metrics.peer_frames_dropped.one();
            return;
        }
        out.queue
            .extend(frame.into_iter().filter(|piece| !piece.is_empty()));
        out.queue_bytes += len;
        self.metrics.peer_frames_out.one();
        self.metrics.peer_bytes_out.add(len as u64);
        if out.blocked {
            return;
        }
        let serial = out.serial;
        match out.write() {
            Ok(true) => {}
            Ok(false) => {
                out.blocked = true;
                let lane = lane.clone();
                tokio::task::spawn_local(async move {
                    std::future::poll_fn(|context| {
                        poll_write(&mut lane.core(), node, link, serial, context)
                    })
                    .await;
                });
            }
            Err(error) => self
                .broken_links
                .push((node, link, serial, error.to_string())),
        }
    }
}

/// Goes on with a blocked link's queue.
fn poll_write(
    core: &mut Core,
    node: NodeId,
    link: Link,
    serial: u64,
    context: &mut Context<'_>,
) -> Poll<()> {
    loop {
        let Some(out) = core
            .peers
            .get(node, link)
            .filter(|out| out.serial == serial)
        else {
            return Poll::Ready(());
        };
        match out.write() {
            Ok(true) => {
                out.blocked = false;
                return Poll::Ready(());
            }
            Ok(false) => match out.socket.as_ref().poll_write_ready(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(_) => {}
            },
            Err(error) => {
                core.link_down(node, link, serial, &error.to_string());
                return Poll::Ready(());
            }
        }
    }
}

/// Reads frames until the link ends.
async fn read_link(
    lane: Rc<Lane>,
    node: NodeId,
    link: Link,
    serial: u64,
    mut socket: OwnedReadHalf,
) {
    let mut frames = Frames::default();
    let reason = std::future::poll_fn(|context| {
        poll_read(&mut lane.core(), node, &mut frames, &mut socket, context)
    })
    .await;
    lane.core().link_down(node, link, serial, &reason);
}

fn poll_read(
    core: &mut Core,
    node: NodeId,
    frames: &mut Frames,
    socket: &mut OwnedReadHalf,
    context: &mut Context<'_>,
) -> Poll<String> {
    loop {
        let mut buffer = ReadBuf::new(&mut core.scratch);
        let len = match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => buffer.filled().len(),
            Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
        };
        if len == 0 {
            return Poll::Ready("closed by the other side".to_owned());
        }
        if let Err(error) = core.peer_bytes(node, frames, len) {
            return Poll::Ready(error);
        }
        if len == core.scratch.len() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}
