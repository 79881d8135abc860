//! The identity of a data directory.
//!
//! Drawn once, when the directory is made, and never changed after that: a node that finds no
//! manifest is a new node, whatever its flags and addresses say, since an old identity with an empty
//! memory would vote against its own promises. What changes are the members and the state.
//!
//! | field | size | |
//! |---|---|---|
//! | magic | 8 | `KVORUMND` |
//! | version | 1 | 1 |
//! | oldest | 1 | the oldest version whose readers understand this file: 1 |
//! | state | 1 | 0 prepared: no log was written yet; 1 started |
//! | node | 8 | |
//! | cluster | 8 | 0 until the node belongs to one |
//! | incarnation | 8 | drawn at random: tells two directories with one node id apart |
//! | salt | 8 | mixed into the checksums of the log |
//! | secret | 16 | the cluster's secret, which keys the order of its keys; 0 until it belongs to one |
//! | members | varint | how many follow, ascending by node |
//! | per member: node | 8 | |
//! | peer, client, replica, http | 4 times varint and bytes | UTF-8; empty if there is none |
//! | checksum | 4 | CRC32C of all before |
//!
//! Assumed of the file system: the file is replaced by writing another one beside it, syncing it,
//! renaming it over, and syncing the directory; a reader sees the old or the new one. So anything that
//! cannot be read is damage, and nothing in it is believed.

use kvorum_base::crc::crc32c;
use kvorum_base::cursor::{put_block, put_varint};
use kvorum_base::{ClusterId, Malformed, NodeId, Reader};

const MAGIC: &[u8; 8] = b"KVORUMND";
const VERSION: u8 = 1;
const OLDEST: u8 = 1;

/// The most members that a manifest can list.
pub const MEMBERS_MAX: usize = 4096;

/// Whether there should be a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The directory was made; nothing was promised yet.
    Prepared,
    /// The log was begun: without one, everything promised is lost.
    Started,
}

/// A node of the cluster and where it is reached; an empty address is none.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// For the other nodes.
    pub peer: String,
    /// For clients, as a primary.
    pub client: String,
    /// For clients that read from replicas.
    pub replica: String,
    /// For people and their tools.
    pub http: String,
}

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Whether there should be a log.
    pub state: State,
    /// Who this is.
    pub node: NodeId,
    /// The cluster that it belongs to; 0 for none yet.
    pub cluster: ClusterId,
    /// Tells two directories with the same node id apart.
    pub incarnation: u64,
    /// For `LogOptions::salt`.
    pub salt: u64,
    /// The cluster's secret; zero without a cluster.
    pub secret: [u8; 16],
    /// The nodes of the cluster as last heard, ascending; this one among them.
    pub members: Vec<Member>,
}

impl Manifest {
    /// The bytes of the file.
    ///
    /// # Panics
    /// If the members are too many, or not ascending.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(
            self.members.len() <= MEMBERS_MAX,
            "a manifest of {} members",
            self.members.len()
        );
        let ascending = self
            .members
            .is_sorted_by(|left, right| left.node < right.node);
        assert!(ascending, "members {:?}", self.members);
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, OLDEST, u8::from(self.state == State::Started)]);
        for number in [
            self.node.get(),
            self.cluster.get(),
            self.incarnation,
            self.salt,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.secret);
        put_varint(&mut out, self.members.len() as u64);
        for member in &self.members {
            out.extend_from_slice(&member.node.get().to_le_bytes());
            for address in [&member.peer, &member.client, &member.replica, &member.http] {
                put_block(&mut out, address.as_bytes());
            }
        }
        let checksum = crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If the bytes are not exactly one manifest, or of a version that this reader does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.take(8, "manifest magic")? != MAGIC {
            return Err(reader.malformed("manifest magic"));
        }
        let checked = bytes.len().saturating_sub(4);
        let mut checksum = Reader::new(&bytes[checked..]);
        if checksum.u32("manifest checksum")? != crc32c(&bytes[..checked]) {
            return Err(reader.malformed("manifest checksum"));
        }
        let mut reader = Reader::new(&bytes[..checked]);
        reader.take(8, "manifest magic")?;
        let (version, oldest) = (
            reader.u8("manifest version")?,
            reader.u8("oldest manifest version")?,
        );
        if version != VERSION || oldest != OLDEST {
            return Err(reader.malformed("manifest version"));
        }
        let state = match reader.u8("manifest state")? {
            0 => State::Prepared,
            1 => State::Started,
            _ => return Err(reader.malformed("manifest state")),
        };
        let manifest = Self {
            state,
            node: NodeId(reader.u64("node")?),
            cluster: ClusterId(reader.u64("cluster")?),
            incarnation: reader.u64("incarnation")?,
            salt: reader.u64("salt")?,
            secret: reader.u128("secret")?.to_le_bytes(),
            members: read_members(&mut reader)?,
        };
        reader.end("manifest")?;
        Ok(manifest)
    }
}

fn read_members(reader: &mut Reader<'_>) -> Result<Vec<Member>, Malformed> {
    let count = reader.varint("member count")?;
    if count > MEMBERS_MAX as u64 {
        return Err(reader.malformed("member count"));
    }
    let mut members: Vec<Member> = Vec::new();
    for _ in 0..count {
        let node = NodeId(reader.u64("member")?);
        if members.last().is_some_and(|last| last.node >= node) {
            return Err(reader.malformed("order of members"));
        }
        members.push(Member {
            node,
            peer: read_address(reader)?,
            client: read_address(reader)?,
            replica: read_address(reader)?,
            http: read_address(reader)?,
        });
    }
    Ok(members)
}

fn read_address(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let bytes = reader.block("address")?;
    let address = std::str::from_utf8(bytes).map_err(|_| reader.malformed("address"))?;
    Ok(address.to_owned())
}

/// Any bytes are a manifest or are refused, and a manifest is the same bytes again.
///
/// # Panics
/// If not.
pub fn fuzz(bytes: &[u8]) {
    // The checksum would refuse nearly everything: mend it, so that the rest is reached.
    let mut mended = MAGIC.to_vec();
    mended.extend_from_slice(&[VERSION, OLDEST]);
    mended.extend_from_slice(bytes);
    let checksum = crc32c(&mended);
    mended.extend_from_slice(&checksum.to_le_bytes());
    for input in [bytes, &mended] {
        if let Ok(manifest) = Manifest::decode(input) {
            assert_eq!(manifest.encode(), input);
        }
    }
}
