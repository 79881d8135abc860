//! Establishing links: dialling the nodes with a higher id, answering those with a lower one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use kvorum_base::NodeId;
use kvorum_node::Link;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::handshake::{self, Identity};
use crate::clients::accept::tune;
use crate::lane::Lane;

/// How long connecting, and then the handshake, may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause before the first new attempt; doubled up to [`PAUSE_MAX`]. A node that restarts should not
/// wait long for its peers.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Strangers that may be in the middle of a handshake.
const HANDSHAKES_MAX: u32 = 64;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// Another node and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Its id.
    pub node: NodeId,
    /// Its peer port, `host:port`.
    pub address: String,
}

/// Keeps a link to this peer, for ever.
pub(crate) async fn dial_for_ever(
    lane: Rc<Lane>,
    identity: Rc<Identity>,
    peer: PeerAddress,
    link: Link,
) {
    let mut pause = PAUSE_MIN;
    let mut last_error = String::new();
    loop {
        match dial(&identity, &peer, link).await {
            Ok(stream) => {
                let ended = lane.core().link_up(&lane, peer.node, link, stream);
                last_error.clear();
                let _ = ended.await;
                pause = PAUSE_MIN;
            }
            Err(error) => {
                // Once for each reason: a node that is down for an hour fills no log.
                if error != last_error {
                    lane.metrics().peer_handshakes_failed.one();
                    tracing::warn!(peer = %peer.node, address = peer.address, ?link, "no link: {error}");
                    last_error = error;
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn dial(identity: &Identity, peer: &PeerAddress, link: Link) -> Result<TcpStream, String> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(&peer.address))
        .await
        .map_err(|_| "connecting took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    tune(&stream, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL);
    timeout(
        PATIENCE,
        handshake::dial(&mut stream, identity, peer.node, link),
    )
    .await
    .map_err(|_| "the handshake took too long".to_owned())?
    .map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Answers peers for ever.
pub(crate) async fn accept_peers(lane: Rc<Lane>, identity: Rc<Identity>, listener: TcpListener) {
    let handshakes = Rc::new(Cell::new(0));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a peer: {error}");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if handshakes.get() >= HANDSHAKES_MAX {
            lane.metrics().peer_handshakes_failed.one();
            continue;
        }
        handshakes.set(handshakes.get() + 1);
        let (lane, identity) = (lane.clone(), identity.clone());
        let handshakes = handshakes.clone();
        tokio::task::spawn_local(async move {
            answer(&lane, &identity, stream).await;
            handshakes.set(handshakes.get() - 1);
        });
    }
}

async fn answer(lane: &Rc<Lane>, identity: &Identity, mut stream: TcpStream) {
    tune(&stream, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL);
    let from = stream.peer_addr();
    let known = |node: NodeId| node < identity.node && lane.core().mesh.knows(node);
    match timeout(PATIENCE, handshake::accept(&mut stream, identity, known)).await {
        Ok(Ok((node, link))) => {
            lane.core().link_up(lane, node, link, stream);
        }
        Ok(Err(error)) => {
            lane.metrics().peer_handshakes_failed.one();
            tracing::warn!(?from, "a peer's connection was refused: {error}");
        }
        Err(_) => lane.metrics().peer_handshakes_failed.one(),
    }
}
