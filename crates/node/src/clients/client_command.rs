//! CLIENT: what a connection can say and ask about itself and others.

use kvorum_base::ConnId;
use kvorum_resp::{Args, Replies, ReplyMode};

use super::connections::{Profile, Table};

/// What CLIENT REPLY asks for.
pub(crate) fn reply_mode(args: Args<'_>) -> Option<ReplyMode> {
    match args.get(2).to_ascii_lowercase().as_slice() {
        b"on" => Some(ReplyMode::On),
        b"off" => Some(ReplyMode::Off),
        b"skip" => Some(ReplyMode::Skip),
        _ => None,
    }
}

/// CLIENT GETNAME.
pub(crate) fn getname(profile: &Profile, replies: &mut Replies<'_>) {
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

/// Sets the connection's name, or says why it cannot be one.
pub(crate) fn set_name(profile: &mut Profile, name: &[u8]) -> Result<(), &'static str> {
    if !is_printable(name) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.");
    }
    profile.name = name.to_vec();
    Ok(())
}

/// CLIENT SETNAME.
pub(crate) fn setname(profile: &mut Profile, args: Args<'_>, replies: &mut Replies<'_>) {
    match set_name(profile, args.get(2)) {
        Ok(()) => replies.ok(),
        Err(text) => replies.error(text),
    }
}

/// CLIENT SETINFO.
pub(crate) fn setinfo(profile: &mut Profile, args: Args<'_>, replies: &mut Replies<'_>) {
    let (option, value) = (args.get(2).to_ascii_lowercase(), args.get(3));
    let field = match option.as_slice() {
        b"lib-name" => &mut profile.lib_name,
        b"lib-ver" => &mut profile.lib_ver,
        _ => {
            return replies.error(&format!(
                "ERR Unrecognized option '{}'",
                String::from_utf8_lossy(&option)
            ));
        }
    };
    if !is_printable(value) {
        return replies.error(&format!(
            "ERR {} cannot contain spaces, newlines or special characters.",
            String::from_utf8_lossy(&option)
        ));
    }
    *field = value.to_vec();
    replies.ok();
}

/// CLIENT LIST.
pub(crate) fn list(profile: &Profile, table: &Table, args: Args<'_>, replies: &mut Replies<'_>) {
    let wanted_ids: Option<Vec<u64>> = match args.len() {
        2 => None,
        4 if args.get(2).eq_ignore_ascii_case(b"type") => {
            match args.get(3).to_ascii_lowercase().as_slice() {
                b"normal" => None,
                b"master" | b"replica" | b"slave" | b"pubsub" => Some(Vec::new()),
                other => {
                    let other = String::from_utf8_lossy(other);
                    return replies.error(&format!("ERR Unknown client type '{other}'"));
                }
            }
        }
        4.. if args.get(2).eq_ignore_ascii_case(b"id") => {
            let ids = (3..args.len())
                .map(|at| number(args.get(at)))
                .collect::<Option<Vec<_>>>();
            match ids {
                Some(ids) => Some(ids),
                None => return replies.error("ERR Invalid client ID"),
            }
        }
        _ => return replies.error("ERR syntax error"),
    };
    let mut text = String::new();
    for other in table.profiles_with(profile) {
        if wanted_ids
            .as_ref()
            .is_none_or(|ids| ids.contains(&other.serial))
        {
            text += &other.line(table.now_tick());
            text.push('\n');
        }
    }
    replies.verbatim("txt", &text);
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text)
        .ok()?
        .parse()
        .ok()
        .filter(|number| *number > 0)
}

/// CLIENT KILL: replies, and names the connections to close.
pub(crate) fn kill(
    profile: &Profile,
    table: &Table,
    args: Args<'_>,
    replies: &mut Replies<'_>,
) -> Vec<ConnId> {
    if args.len() == 3 {
        let found = table
            .profiles_with(profile)
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
            replies.error(text);
            return Vec::new();
        }
    };
    let killed: Vec<ConnId> = table
        .profiles_with(profile)
        .filter(|other| filter.id.is_none_or(|id| id == other.serial))
        .filter(|other| {
            filter
                .address
                .is_none_or(|address| address == other.address.as_bytes())
        })
        .filter(|other| !(filter.skip_me && other.conn == profile.conn))
        .map(|other| other.conn)
        .collect();
    replies.integer(killed.len() as i64);
    killed
}

/// Whom CLIENT KILL means.
struct KillFilter<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    skip_me: bool,
}

impl<'a> KillFilter<'a> {
    fn parse(args: Args<'a>) -> Result<Self, &'static str> {
        let mut filter = Self {
            id: None,
            address: None,
            skip_me: true,
        };
        if !args.len().is_multiple_of(2) {
            return Err("ERR syntax error");
        }
        for at in (2..args.len()).step_by(2) {
            let value = args.get(at + 1);
            match args.get(at).to_ascii_lowercase().as_slice() {
                b"id" => {
                    let id = number(value).ok_or("ERR client-id should be greater than 0")?;
                    filter.id = Some(id);
                }
                b"addr" => filter.address = Some(value),
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => filter.skip_me = true,
                b"skipme" if value.eq_ignore_ascii_case(b"no") => filter.skip_me = false,
                b"type" if value.eq_ignore_ascii_case(b"normal") => {}
                b"user" if value == b"default" => {}
                _ => return Err("ERR syntax error"),
            }
        }
        Ok(filter)
    }
}

/// CLIENT NO-EVICT and NO-TOUCH: nothing is evicted or aged here, whoever asks.
pub(crate) fn on_or_off(args: Args<'_>, replies: &mut Replies<'_>) {
    let mode = args.get(2);
    if mode.eq_ignore_ascii_case(b"on") || mode.eq_ignore_ascii_case(b"off") {
        replies.ok();
    } else {
        replies.error("ERR syntax error");
    }
}
