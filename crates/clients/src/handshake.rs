//! HELLO, AUTH and RESET: how a connection begins, and begins anew.

use kvorum_kv::printed;
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Connection, Replies, Version};

use crate::SYNTAX;
use crate::command::check_name;
use crate::profile::Profile;

/// The version of Redis whose replies these are.
pub const REDIS_VERSION: &str = "7.2.4";

/// HELLO, with the password that is asked for, and the mode and role that are told: checks it, does what its
/// options say, and replies in the version just agreed on. If anything is wrong nothing is changed.
///
/// # Errors
/// The reply to give instead.
pub fn hello(
    (connection, profile): (&mut Connection, &mut Profile),
    seq: u32,
    password: Option<&str>,
    (mode, role): (&str, &str),
    args: Args<'_>,
) -> Result<(), Vec<u8>> {
    let version = match args.len() {
        1 => None,
        _ => Some(protocol_version(args.get(1))?),
    };
    let mut credentials = None;
    let mut name = None;
    let mut at = 2;
    while at < args.len() {
        let left = args.len() - at - 1;
        match args.get(at).to_ascii_lowercase().as_slice() {
            b"auth" if left >= 2 => {
                credentials = Some((args.get(at + 1), args.get(at + 2)));
                at += 3;
            }
            b"setname" if left >= 1 => {
                check_name(args.get(at + 1))?;
                name = Some(args.get(at + 1));
                at += 2;
            }
            _ => {
                let option = printed(args.get(at));
                return Err([b"ERR Syntax error in HELLO option '", option, b"'"].concat());
            }
        }
    }
    if let Some((user, given)) = credentials {
        authenticate(password, user, given)?;
        connection.set_authenticated(true);
    }
    if !connection.is_authenticated() {
        const TEXT: &str = "NOAUTH HELLO must be called with the client already authenticated, \
             otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the \
             client and select the RESP protocol version at the same time";
        return Err(TEXT.into());
    }
    if let Some(name) = name {
        profile.name = name.to_vec();
    }
    if let Some(version) = version {
        connection.set_version(seq, version);
    }
    let version = connection.version(seq).number();
    profile.protocol = version;
    let told = (mode, role);
    connection.reply(seq, |replies| hello_reply(profile, told, version, replies));
    Ok(())
}

fn protocol_version(text: &[u8]) -> Result<Version, &'static str> {
    match parse_integer(text) {
        Some(2) => Ok(Version::Resp2),
        Some(3) => Ok(Version::Resp3),
        Some(_) => Err("NOPROTO unsupported protocol version"),
        None => Err("ERR Protocol version is not an integer or out of range"),
    }
}

fn hello_reply(
    profile: &Profile,
    (mode, role): (&str, &str),
    version: u8,
    replies: &mut Replies<'_>,
) {
    replies.map(7);
    replies.bulk(b"server");
    replies.bulk(b"redis");
    replies.bulk(b"version");
    replies.bulk(REDIS_VERSION.as_bytes());
    replies.bulk(b"proto");
    replies.integer(i64::from(version));
    replies.bulk(b"id");
    replies.integer(profile.serial as i64);
    replies.bulk(b"mode");
    replies.bulk(mode.as_bytes());
    replies.bulk(b"role");
    replies.bulk(role.as_bytes());
    replies.bulk(b"modules");
    replies.array(0);
}

/// AUTH with a password, or a user and a password.
///
/// # Errors
/// The reply to give instead of OK.
pub fn auth(password: Option<&str>, args: Args<'_>) -> Result<(), &'static str> {
    match args.len() {
        2 if password.is_none() => Err(
            "ERR AUTH <password> called without any password configured for the default user. Are you \
             sure your configuration is correct?",
        ),
        2 => authenticate(password, b"default", args.get(1)),
        3 => authenticate(password, args.get(1), args.get(2)),
        _ => Err(SYNTAX),
    }
}

fn authenticate(password: Option<&str>, user: &[u8], given: &[u8]) -> Result<(), &'static str> {
    let right = password.is_none_or(|expected| same_bytes(expected.as_bytes(), given));
    if user == b"default" && right {
        return Ok(());
    }
    Err("WRONGPASS invalid username-password pair or user is disabled.")
}

/// Compares in a time that tells nothing about where the first difference is.
fn same_bytes(expected: &[u8], given: &[u8]) -> bool {
    let differences = expected
        .iter()
        .zip(given)
        .fold(0u8, |differences, (left, right)| {
            differences | (left ^ right)
        });
    differences == 0 && expected.len() == given.len()
}

/// RESET: as it was when it was made.
pub fn reset(
    (connection, profile): (&mut Connection, &mut Profile),
    seq: u32,
    password: Option<&str>,
) {
    connection.take_transaction();
    profile.name.clear();
    profile.protocol = Version::Resp2.number();
    connection.set_authenticated(password.is_none());
    connection.set_version(seq, Version::Resp2);
    connection.reset_reply_mode(seq);
    connection.reply(seq, |replies| replies.simple("RESET"));
}
