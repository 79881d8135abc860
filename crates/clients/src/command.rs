//! CLIENT: what a connection can say and ask about itself and others.

use kvorum_base::ConnId;
use kvorum_kv::printed;
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies, ReplyMode};

use crate::SYNTAX;
use crate::profile::Profile;

/// What CLIENT REPLY asks for; `None` if that is wrong.
#[must_use]
pub fn reply_mode(args: Args<'_>) -> Option<ReplyMode> {
    match args.get(2).to_ascii_lowercase().as_slice() {
        b"on" => Some(ReplyMode::On),
        b"off" => Some(ReplyMode::Off),
        b"skip" => Some(ReplyMode::Skip),
        _ => None,
    }
}

/// CLIENT GETNAME.
pub fn getname(profile: &Profile, replies: &mut Replies<'_>) {
    if profile.name.is_empty() {
        replies.null();
    } else {
        replies.bulk(&profile.name);
    }
}

/// Whether a text can stand in CLIENT LIST, whose fields are separated by spaces and lines.
fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// Whether something can be a connection's name.
///
/// # Errors
/// The reply, if it cannot.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if is_printable(name) {
        Ok(())
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.")
    }
}

/// CLIENT SETNAME.
pub fn setname(profile: &mut Profile, args: Args<'_>, replies: &mut Replies<'_>) {
    match check_name(args.get(2)) {
        Ok(()) => {
            profile.name = args.get(2).to_vec();
            replies.ok();
        }
        Err(text) => replies.error(text),
    }
}

/// CLIENT SETINFO.
pub fn setinfo(profile: &mut Profile, args: Args<'_>, replies: &mut Replies<'_>) {
    let (option, value) = (args.get(2).to_ascii_lowercase(), args.get(3));
    let field = match option.as_slice() {
        b"lib-name" => &mut profile.lib_name,
        b"lib-ver" => &mut profile.lib_ver,
        _ => {
            let option = printed(args.get(2));
            let text = [b"ERR Unrecognized option '", option, b"'"].concat();
            return replies.error_bytes(&text);
        }
    };
    if !is_printable(value) {
        const TEXT: &[u8] = b" cannot contain spaces, newlines or special characters.";
        return replies.error_bytes(&[b"ERR ", printed(args.get(2)), TEXT].concat());
    }
    *field = value.to_vec();
    replies.ok();
}

/// The kinds of clients that filters name. All connections are of the first.
const TYPES: [&str; 5] = ["normal", "slave", "replica", "pubsub", "master"];

/// Whether a filter by type takes the connections that there are.
fn is_normal(name: &[u8]) -> Result<bool, Vec<u8>> {
    let known = TYPES
        .iter()
        .position(|known| known.as_bytes().eq_ignore_ascii_case(name));
    match known {
        Some(at) => Ok(at == 0),
        None => Err([b"ERR Unknown client type '", printed(name), b"'"].concat()),
    }
}

/// CLIENT LIST, of these connections.
pub fn list<'a>(
    all: impl Iterator<Item = &'a Profile>,
    now_tick: u64,
    args: Args<'_>,
    replies: &mut Replies<'_>,
) {
    match wanted_ids(args) {
        Ok(wanted) => {
            let mut text = String::new();
            for profile in all {
                let serial = i64::try_from(profile.serial).unwrap_or(i64::MAX);
                if wanted.as_ref().is_none_or(|ids| ids.contains(&serial)) {
                    text += &profile.line(now_tick);
                    text.push('\n');
                }
            }
            replies.verbatim("txt", &text);
        }
        Err(text) => replies.error_bytes(&text),
    }
}

/// Whom CLIENT LIST is to tell of; `None`: all.
fn wanted_ids(args: Args<'_>) -> Result<Option<Vec<i64>>, Vec<u8>> {
    match args.len() {
        2 => Ok(None),
        4 if args.get(2).eq_ignore_ascii_case(b"type") => {
            Ok((!is_normal(args.get(3))?).then(Vec::new))
        }
        4.. if args.get(2).eq_ignore_ascii_case(b"id") => args
            .iter()
            .skip(3)
            .map(parse_integer)
            .collect::<Option<Vec<_>>>()
            .map(Some)
            .ok_or_else(|| b"ERR Invalid client ID".to_vec()),
        _ => Err(SYNTAX.into()),
    }
}

/// CLIENT KILL by one of these connections: replies, and names those to close.
pub fn kill<'a>(
    own: ConnId,
    mut all: impl Iterator<Item = &'a Profile>,
    args: Args<'_>,
    replies: &mut Replies<'_>,
) -> Vec<ConnId> {
    if args.len() == 3 {
        let found = all
            .find(|other| other.address.as_bytes() == args.get(2))
            .map(|other| other.conn);
        match found {
            Some(_) => replies.ok(),
            None => replies.error("ERR No such client"),
        }
        return found.into_iter().collect();
    }
    let filter = match KillFilter::parse(args) {
        Ok(filter) => filter,
        Err(text) => {
            replies.error_bytes(&text);
            return Vec::new();
        }
    };
    let killed: Vec<ConnId> = all
        .filter(|other| filter.takes(other))
        .filter(|other| !(filter.skip_me && other.conn == own))
        .map(|other| other.conn)
        .collect();
    replies.integer(killed.len() as i64);
    killed
}

/// Whom CLIENT KILL means.
struct KillFilter<'a> {
    id: Option<i64>,
    address: Option<&'a [u8]>,
    /// Something that no connection has.
    nobody: bool,
    skip_me: bool,
}

impl<'a> KillFilter<'a> {
    /// Reads pair by pair, so that errors come in Redis's order.
    fn parse(args: Args<'a>) -> Result<Self, Vec<u8>> {
        let mut filter = Self {
            id: None,
            address: None,
            nobody: false,
            skip_me: true,
        };
        for at in (2..args.len()).step_by(2) {
            if at + 1 == args.len() {
                return Err(SYNTAX.into());
            }
            let value = args.get(at + 1);
            match args.get(at).to_ascii_lowercase().as_slice() {
                b"id" => {
                    let id = parse_integer(value).filter(|id| *id > 0);
                    filter.id = Some(id.ok_or("ERR client-id should be greater than 0")?);
                }
                b"addr" => filter.address = Some(value),
                // Where a connection came in is not noted.
                b"laddr" => filter.nobody = true,
                b"type" => filter.nobody |= !is_normal(value)?,
                b"user" if value == b"default" => {}
                b"user" => {
                    return Err([b"ERR No such user '", printed(value), b"'"].concat());
                }
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => filter.skip_me = true,
                b"skipme" if value.eq_ignore_ascii_case(b"no") => filter.skip_me = false,
                _ => return Err(SYNTAX.into()),
            }
        }
        Ok(filter)
    }

    fn takes(&self, other: &Profile) -> bool {
        let is = |address| address == other.address.as_bytes();
        !self.nobody
            && self
                .id
                .is_none_or(|id| u64::try_from(id) == Ok(other.serial))
            && self.address.is_none_or(is)
    }
}

/// CLIENT NO-EVICT and NO-TOUCH: nothing is evicted or aged here, whoever asks.
pub fn on_or_off(args: Args<'_>, replies: &mut Replies<'_>) {
    let mode = args.get(2);
    if mode.eq_ignore_ascii_case(b"on") || mode.eq_ignore_ascii_case(b"off") {
        replies.ok();
    } else {
        replies.error(SYNTAX);
    }
}
