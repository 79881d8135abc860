//! How two nodes convince each other before the first frame.
//!
//! Whoever reaches the peer port could otherwise vote and append. So both sides show that they hold
//! the cluster's secret, over fresh random numbers of both, and over everything that was claimed:
//!
//! ```text
//! dialer   -> hello:   "kvorum-p" | version u8 | link u8 | cluster u64 | from u64 | to u64 | nonce 32
//! acceptor -> answer:  status u8 | nonce 32 | MAC("kvorum acceptor", hello, nonce)
//! dialer   -> proof:   MAC("kvorum dialer", hello, nonce of the acceptor)
//! acceptor -> welcome: 1
//! ```
//!
//! All numbers are little-endian. A refusal is a status other than 1 and nothing behind it. The
//! acceptor speaks its proof first; it is bound to the dialer's nonce and says "acceptor", so it can
//! neither be kept for later nor sent back as a dialer's. The link's frames are not authenticated one
//! by one: between machines, the network must keep strangers out of established connections.

use std::io;

use kvorum_base::{ClusterId, NodeId, Reader};
use kvorum_node::Link;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use kvorum_secret::{MAC_LEN, Secret, random};

const MAGIC: &[u8; 8] = b"kvorum-p";
const VERSION: u8 = 1;
const NONCE_LEN: usize = 32;
const HELLO_LEN: usize = 8 + 1 + 1 + 8 + 8 + 8 + NONCE_LEN;

const OK: u8 = 1;
const REFUSED_VERSION: u8 = 2;
const REFUSED_CLUSTER: u8 = 3;
const REFUSED_NODE: u8 = 4;
const REFUSED_PROOF: u8 = 5;

/// Who we are and what we hold.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// What only the cluster's nodes know.
    pub secret: Secret,
}

/// Convinces the node at the other end, and is convinced.
///
/// # Errors
/// If the connection ends, or the other side refuses or cannot prove itself.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    identity: &Identity,
    to: NodeId,
    link: Link,
) -> io::Result<()> {
    let nonce: [u8; NONCE_LEN] = random();
    let mut hello = Vec::with_capacity(HELLO_LEN);
    hello.extend_from_slice(MAGIC);
    hello.extend_from_slice(&[VERSION, link_number(link)]);
    hello.extend_from_slice(&identity.cluster.0.to_le_bytes());
    hello.extend_from_slice(&identity.node.0.to_le_bytes());
    hello.extend_from_slice(&to.0.to_le_bytes());
    hello.extend_from_slice(&nonce);
    stream.write_all(&hello).await?;

    match stream.read_u8().await? {
        OK => {}
        REFUSED_VERSION => return Err(refused("it speaks another version of the peer protocol")),
        REFUSED_CLUSTER => return Err(refused("it belongs to another cluster")),
        REFUSED_NODE => return Err(refused("it is another node, or does not know this one")),
        _ => return Err(refused("its answer is not one of a kvorum node")),
    }
    let mut answer = [0; NONCE_LEN + MAC_LEN];
    stream.read_exact(&mut answer).await?;
    let (their_nonce, mac) = answer.split_at(NONCE_LEN);
    if !identity
        .secret
        .verify("kvorum acceptor", &[&hello, their_nonce], mac)
    {
        return Err(refused("it does not know the cluster's secret"));
    }
    stream
        .write_all(&identity.secret.mac("kvorum dialer", &[&hello, their_nonce]))
        .await?;
    match stream.read_u8().await? {
        OK => Ok(()),
        _ => Err(refused(
            "it did not accept our proof of the cluster's secret",
        )),
    }
}

/// The other side of [`dial`]. `known` says whether a node may dial us.
///
/// # Errors
/// If the connection ends, or the other side cannot prove itself.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    identity: &Identity,
    known: impl Fn(NodeId) -> bool,
) -> io::Result<(NodeId, Link)> {
    let mut hello = [0; HELLO_LEN];
    stream.read_exact(&mut hello).await?;
    let claim = Claim::read(&hello)?;
    let refusal = if claim.version != VERSION {
        Some((REFUSED_VERSION, "another version of the peer protocol"))
    } else if claim.cluster != identity.cluster {
        Some((REFUSED_CLUSTER, "another cluster"))
    } else if claim.to != identity.node || !known(claim.from) {
        Some((
            REFUSED_NODE,
            "not meant for this node, or from an unknown one",
        ))
    } else {
        None
    };
    if let Some((status, reason)) = refusal {
        stream.write_all(&[status]).await?;
        return Err(refused(reason));
    }
    let nonce: [u8; NONCE_LEN] = random();
    let mut answer = vec![OK];
    answer.extend_from_slice(&nonce);
    answer.extend_from_slice(&identity.secret.mac("kvorum acceptor", &[&hello, &nonce]));
    stream.write_all(&answer).await?;

    let mut proof = [0; MAC_LEN];
    stream.read_exact(&mut proof).await?;
    if !identity
        .secret
        .verify("kvorum dialer", &[&hello, &nonce], &proof)
    {
        stream.write_all(&[REFUSED_PROOF]).await?;
        return Err(refused("it does not know the cluster's secret"));
    }
    stream.write_all(&[OK]).await?;
    Ok((claim.from, claim.link))
}

/// What a hello says, before anything is proved.
struct Claim {
    version: u8,
    link: Link,
    cluster: ClusterId,
    from: NodeId,
    to: NodeId,
}

impl Claim {
    fn read(hello: &[u8; HELLO_LEN]) -> io::Result<Self> {
        let malformed = |_| refused("its first bytes are not those of a kvorum node");
        let mut reader = Reader::new(hello);
        if reader.take(MAGIC.len(), "magic").map_err(malformed)? != MAGIC {
            return Err(malformed(reader.malformed("magic")));
        }
        Ok(Self {
            version: reader.u8("version").map_err(malformed)?,
            link: match reader.u8("link").map_err(malformed)? {
                0 => Link::Urgent,
                1 => Link::Bulk,
                _ => return Err(malformed(reader.malformed("link"))),
            },
            cluster: ClusterId(reader.u64("cluster").map_err(malformed)?),
            from: NodeId(reader.u64("from").map_err(malformed)?),
            to: NodeId(reader.u64("to").map_err(malformed)?),
        })
    }
}

/// The number of a link in a hello, and its place in a peer's pair.
pub(super) fn link_number(link: Link) -> u8 {
    match link {
        Link::Urgent => 0,
        Link::Bulk => 1,
    }
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: u64, node: u64, secret: u8) -> Identity {
        Identity {
            cluster: ClusterId(cluster),
            node: NodeId(node),
            secret: Secret::new([secret; 32]),
        }
    }

    /// Node 2 dials; both results.
    fn meet(
        dialer: Identity,
        to: u64,
        acceptor: Identity,
    ) -> (io::Result<()>, io::Result<(NodeId, Link)>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(1024);
            tokio::join!(
                async move { dial(&mut near, &dialer, NodeId(to), Link::Bulk).await },
                async move { accept(&mut far, &acceptor, |node| node == NodeId(2)).await },
            )
        })
    }

    #[test]
    fn two_nodes_of_a_cluster_meet() {
        let (dialed, accepted) = meet(identity(1, 2, 7), 3, identity(1, 3, 7));
        dialed.expect("dialed");
        assert_eq!(accepted.expect("accepted"), (NodeId(2), Link::Bulk));
    }

    #[test]
    fn a_stranger_is_turned_away_with_the_reason() {
        let other_secret = meet(identity(1, 2, 7), 3, identity(1, 3, 8));
        assert!(
            other_secret
                .0
                .expect_err("refused")
                .to_string()
                .contains("secret")
        );
        other_secret.1.expect_err("refused");
        let other_cluster = meet(identity(1, 2, 7), 3, identity(9, 3, 7));
        assert!(
            other_cluster
                .0
                .expect_err("refused")
                .to_string()
                .contains("another cluster")
        );
        let other_node = meet(identity(1, 2, 7), 4, identity(1, 3, 7));
        assert!(
            other_node
                .0
                .expect_err("refused")
                .to_string()
                .contains("another node")
        );
        let unknown = meet(identity(1, 5, 7), 3, identity(1, 3, 7));
        unknown.1.expect_err("refused");
    }

    /// The dialer's own hello and the acceptor's proof are of no use to one who lacks the secret.
    #[test]
    fn a_reflected_proof_is_none() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(1024);
            let acceptor = identity(1, 3, 7);
            let thief = async move {
                let mut hello = Vec::new();
                hello.extend_from_slice(MAGIC);
                hello.extend_from_slice(&[VERSION, 0]);
                for number in [1u64, 2, 3] {
                    hello.extend_from_slice(&number.to_le_bytes());
                }
                hello.extend_from_slice(&[0; NONCE_LEN]);
                near.write_all(&hello).await.expect("sent");
                let mut answer = [0; 1 + NONCE_LEN + MAC_LEN];
                near.read_exact(&mut answer).await.expect("answered");
                near.write_all(&answer[1 + NONCE_LEN..])
                    .await
                    .expect("sent");
                near.read_u8().await.expect("a status")
            };
            let (status, accepted) =
                tokio::join!(
                    thief,
                    async move { accept(&mut far, &acceptor, |_| true).await }
                );
            assert_eq!(status, REFUSED_PROOF);
            accepted.expect_err("refused");
        });
    }
}
