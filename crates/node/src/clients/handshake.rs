//! HELLO, AUTH and SELECT: how a connection begins.

use kvorum_kv::printed;
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies};

use super::client_command::check_name;
use super::connections::{Client, Profile};
use crate::config::Config;

/// The version of Redis whose replies these are.
pub(crate) const REDIS_VERSION: &str = "7.2.4";

/// What HELLO asks for, once it is known to be granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    /// The protocol version to speak from this reply on, if it was named.
    pub(crate) version: Option<u8>,
}

/// Checks HELLO and does what its options say; nothing is changed if anything is wrong.
///
/// # Errors
/// The reply.
pub(crate) fn hello(
    client: &mut Client,
    config: &Config,
    args: Args<'_>,
) -> Result<Hello, Vec<u8>> {
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
    if let Some((user, password)) = credentials {
        authenticate(config, user, password).map_err(String::into_bytes)?;
        client.connection.set_authenticated(true);
    }
    if !client.connection.is_authenticated() {
        const TEXT: &str = "NOAUTH HELLO must be called with the client already authenticated, \
             otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the \
             client and select the RESP protocol version at the same time";
        return Err(TEXT.into());
    }
    if let Some(name) = name {
        client.profile.name = name.to_vec();
    }
    Ok(Hello { version })
}

fn protocol_version(text: &[u8]) -> Result<u8, &'static str> {
    match parse_integer(text) {
        Some(2) => Ok(2),
        Some(3) => Ok(3),
        Some(_) => Err("NOPROTO unsupported protocol version"),
        None => Err("ERR Protocol version is not an integer or out of range"),
    }
}

/// What HELLO answers, in the version just agreed on.
pub(crate) fn hello_reply(profile: &Profile, version: u8, replies: &mut Replies<'_>) {
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
    replies.bulk(b"cluster");
    replies.bulk(b"role");
    replies.bulk(b"master");
    replies.bulk(b"modules");
    replies.array(0);
}

/// AUTH with a password, or a user and a password.
///
/// # Errors
/// The reply.
pub(crate) fn auth(config: &Config, args: Args<'_>) -> Result<(), String> {
    if args.len() > 3 {
        return Err("ERR syntax error".to_owned());
    }
    if args.len() == 2 && config.password.is_none() {
        return Err(
            "ERR AUTH <password> called without any password configured for the default \
                    user. Are you sure your configuration is correct?"
                .to_owned(),
        );
    }
    let (user, password): (&[u8], _) = if args.len() == 2 {
        (b"default", args.get(1))
    } else {
        (args.get(1), args.get(2))
    };
    authenticate(config, user, password)
}

fn authenticate(config: &Config, user: &[u8], password: &[u8]) -> Result<(), String> {
    let right = match &config.password {
        None => true,
        Some(expected) => same_bytes(expected.as_bytes(), password),
    };
    if user == b"default" && right {
        return Ok(());
    }
    Err("WRONGPASS invalid username-password pair or user is disabled.".to_owned())
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

/// SELECT: a cluster has one database.
pub(crate) fn select(args: Args<'_>, replies: &mut Replies<'_>) {
    const LOWEST: i64 = i32::MIN as i64;
    const HIGHEST: i64 = i32::MAX as i64;
    match parse_integer(args.get(1)) {
        Some(0) => replies.ok(),
        Some(LOWEST..=HIGHEST) => replies.error("ERR SELECT is not allowed in cluster mode"),
        Some(_) => replies.error(&format!(
            "ERR value is out of range, value must between {LOWEST} and {HIGHEST}"
        )),
        None => replies.error("ERR value is not an integer or out of range"),
    }
}
