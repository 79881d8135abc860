//! Commands that the router answers by itself: as a Redis that stands alone.

use kvorum_base::ConnId;
use kvorum_kv::glob::matches;
use kvorum_kv::{NodeCommand, printed};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies, ReplyMode, Version};

use crate::clients::{Client, Profile};
use crate::info::{self, REDIS_VERSION};
use crate::router::{Config, Router};

const SYNTAX: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// What a Redis that stands alone says to everything about clusters.
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";
const NO_WAIT: &str = "ERR WAIT is not known to a router: what was acknowledged is on the disks of a \
     majority already";

impl Router {
    /// Runs such a command.
    pub(crate) fn run_local(
        &mut self,
        client: &mut Client,
        seq: u32,
        command: NodeCommand,
        args: Args<'_>,
    ) {
        use NodeCommand as Is;
        match command {
            Is::Hello => self.hello(client, seq, args),
            Is::Auth => {
                let result = auth(&self.config, args);
                if result.is_ok() {
                    client.connection.set_authenticated(true);
                }
                self.reply_result(client, seq, result.map_err(String::into_bytes));
            }
            Is::Quit => {
                client.connection.close_after(seq);
                client.connection.reply(seq, |replies| replies.ok());
            }
            Is::Reset => self.reset(client, seq),
            Is::ClientReply => self.client_reply(client, seq, args),
            Is::ClientKill => self.client_kill(client, seq, args),
            Is::ClientSetname => {
                let result = check_name(args.get(2)).map(|()| {
                    client.profile.name = args.get(2).to_vec();
                });
                self.reply_result(client, seq, result.map_err(Into::into));
            }
            Is::ClientSetinfo => {
                let result = setinfo(&mut client.profile, args);
                self.reply_result(client, seq, result);
            }
            Is::Info => {
                let wanted: Vec<String> = (args.iter().skip(1))
                    .map(|section| String::from_utf8_lossy(section).to_ascii_lowercase())
                    .collect();
                let text = info::info(&self.status(), &wanted);
                client
                    .connection
                    .reply(seq, |replies| replies.verbatim("txt", &text));
            }
            Is::ClientList => {
                let result = self.client_list(&client.profile, args);
                client.connection.reply(seq, |replies| match result {
                    Ok(text) => replies.verbatim("txt", &text),
                    Err(text) => replies.error_bytes(&text),
                });
            }
            _ => {
                let profile = &client.profile;
                client
                    .connection
                    .reply(seq, |replies| self.answer(profile, command, args, replies));
            }
        }
    }

    /// Commands that change nothing.
    fn answer(
        &self,
        profile: &Profile,
        command: NodeCommand,
        args: Args<'_>,
        replies: &mut Replies<'_>,
    ) {
        use NodeCommand as Is;
        match command {
            Is::Ping => match args.len() {
                1 => replies.simple("PONG"),
                2 => replies.bulk(args.get(1)),
                _ => replies.error("ERR wrong number of arguments for 'ping' command"),
            },
            Is::Select => select(args, replies),
            Is::ClientId => replies.integer(profile.serial as i64),
            Is::ClientGetname if profile.name.is_empty() => replies.null(),
            Is::ClientGetname => replies.bulk(&profile.name),
            Is::ClientInfo => {
                replies.verbatim("txt", &format!("{}\n", profile.line(self.now_tick)));
            }
            Is::ClientNoEvict | Is::ClientNoTouch => {
                let mode = args.get(2);
                if mode.eq_ignore_ascii_case(b"on") || mode.eq_ignore_ascii_case(b"off") {
                    replies.ok();
                } else {
                    replies.error(SYNTAX);
                }
            }
            Is::ConfigGet => config_get(&self.config, args, replies),
            Is::ConfigSet => config_set(&self.config, args, replies),
            // Counters only grow, so that rates can be computed from them.
            Is::ConfigResetstat => replies.ok(),
            Is::Time => {
                let now = self.wall.get();
                replies.array(2);
                replies.bulk((now / 1000).to_string().as_bytes());
                replies.bulk((now % 1000 * 1000).to_string().as_bytes());
            }
            Is::Role => {
                replies.array(3);
                replies.bulk(b"master");
                replies.integer(0);
                replies.array(0);
            }
            Is::Wait => replies.error(NO_WAIT),
            Is::Link => replies.error("ERR a router does not take the links of routers"),
            // The rest is about clusters.
            _ => replies.error(NO_CLUSTER),
        }
    }

    fn reply_result(&mut self, client: &mut Client, seq: u32, result: Result<(), Vec<u8>>) {
        match result {
            Ok(()) => {
                client.connection.reply(seq, |replies| replies.ok());
            }
            Err(text) => self.refuse_request(client, seq, &text),
        }
    }

    fn hello(&mut self, client: &mut Client, seq: u32, args: Args<'_>) {
        let version = match check_hello(client, &self.config, args) {
            Ok(version) => version,
            Err(text) => return self.refuse_request(client, seq, &text),
        };
        if let Some(version) = version {
            client.connection.set_version(seq, version);
        }
        let version = client.connection.version(seq).number();
        client.profile.protocol = version;
        let serial = client.profile.serial;
        client.connection.reply(seq, |replies| {
            replies.map(7);
            replies.bulk(b"server");
            replies.bulk(b"redis");
            replies.bulk(b"version");
            replies.bulk(REDIS_VERSION.as_bytes());
            replies.bulk(b"proto");
            replies.integer(i64::from(version));
            replies.bulk(b"id");
            replies.integer(serial as i64);
            replies.bulk(b"mode");
            replies.bulk(b"standalone");
            replies.bulk(b"role");
            replies.bulk(b"master");
            replies.bulk(b"modules");
            replies.array(0);
        });
    }

    fn reset(&mut self, client: &mut Client, seq: u32) {
        client.profile.name.clear();
        client.profile.protocol = Version::Resp2.number();
        client
            .connection
            .set_authenticated(self.config.password.is_none());
        client.connection.set_version(seq, Version::Resp2);
        client.connection.reset_reply_mode(seq);
        client
            .connection
            .reply(seq, |replies| replies.simple("RESET"));
    }

    /// What CLIENT REPLY does takes effect with its own reply.
    fn client_reply(&mut self, client: &mut Client, seq: u32, args: Args<'_>) {
        let mode = match args.get(2).to_ascii_lowercase().as_slice() {
            b"on" => ReplyMode::On,
            b"off" => ReplyMode::Off,
            b"skip" => ReplyMode::Skip,
            _ => return self.refuse_request(client, seq, SYNTAX.as_bytes()),
        };
        client.connection.set_reply_mode(seq, mode);
        client.connection.reply(seq, |replies| replies.ok());
    }

    fn client_list(&self, own: &Profile, args: Args<'_>) -> Result<String, Vec<u8>> {
        let wanted: Option<Vec<i64>> = match args.len() {
            2 => None,
            4 if args.get(2).eq_ignore_ascii_case(b"type") => {
                (!is_normal(args.get(3))?).then(Vec::new)
            }
            4.. if args.get(2).eq_ignore_ascii_case(b"id") => {
                let ids: Option<Vec<i64>> = args.iter().skip(3).map(parse_integer).collect();
                Some(ids.ok_or_else(|| b"ERR Invalid client ID".to_vec())?)
            }
            _ => return Err(SYNTAX.into()),
        };
        let others = self.clients.iter().map(|client| &client.profile);
        let mut text = String::new();
        for profile in others.chain([own]) {
            let serial = i64::try_from(profile.serial).unwrap_or(i64::MAX);
            if wanted.as_ref().is_none_or(|ids| ids.contains(&serial)) {
                text += &profile.line(self.now_tick);
                text.push('\n');
            }
        }
        Ok(text)
    }

    fn client_kill(&mut self, client: &mut Client, seq: u32, args: Args<'_>) {
        let own = &client.profile;
        let result = KillFilter::parse(args).map(|filter| {
            let others = self.clients.iter().map(|client| &client.profile);
            let named = others.chain([own]).filter(|other| filter.takes(other));
            let killed: Vec<ConnId> = named
                .filter(|other| !(filter.skip_me && other.conn == own.conn))
                .map(|other| other.conn)
                .collect();
            (killed, filter.by_address_alone)
        });
        let (killed, by_address_alone) = match result {
            Ok(result) => result,
            Err(text) => return self.refuse_request(client, seq, &text),
        };
        client
            .connection
            .reply(seq, |replies| match (by_address_alone, killed.is_empty()) {
                (true, true) => replies.error("ERR No such client"),
                (true, false) => replies.ok(),
                (false, _) => replies.integer(killed.len() as i64),
            });
        for conn in killed {
            if conn == client.profile.conn {
                client.connection.close_when_answered();
            } else if let Some(other) = self.clients.get_mut(conn) {
                other.connection.close_when_answered();
                self.clients.touch(conn);
            }
        }
    }
}

/// Checks HELLO and does what its options say; nothing is changed if anything is wrong.
fn check_hello(
    client: &mut Client,
    config: &Config,
    args: Args<'_>,
) -> Result<Option<Version>, Vec<u8>> {
    let version = match args.len() {
        1 => None,
        _ => Some(match parse_integer(args.get(1)) {
            Some(2) => Version::Resp2,
            Some(3) => Version::Resp3,
            Some(_) => return Err(b"NOPROTO unsupported protocol version".into()),
            None => return Err(b"ERR Protocol version is not an integer or out of range".into()),
        }),
    };
    let (mut credentials, mut name) = (None, None);
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
    Ok(version)
}

/// AUTH with a password, or a user and a password.
fn auth(config: &Config, args: Args<'_>) -> Result<(), String> {
    match args.len() {
        2 if config.password.is_none() => Err("ERR AUTH <password> called without any password \
             configured for the default user. Are you sure your configuration is correct?"
            .to_owned()),
        2 => authenticate(config, b"default", args.get(1)),
        3 => authenticate(config, args.get(1), args.get(2)),
        _ => Err(SYNTAX.to_owned()),
    }
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
    let pairs = expected.iter().zip(given);
    let differences = pairs.fold(0u8, |differences, (left, right)| {
        differences | (left ^ right)
    });
    differences == 0 && expected.len() == given.len()
}

/// SELECT: there is one database.
fn select(args: Args<'_>, replies: &mut Replies<'_>) {
    match parse_integer(args.get(1)) {
        Some(0) => replies.ok(),
        Some(_) => replies.error("ERR DB index is out of range"),
        None => replies.error(NOT_AN_INTEGER),
    }
}

/// Whether a text can stand in CLIENT LIST, whose fields are separated by spaces and lines.
fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// Says why something cannot be a connection's name.
fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if is_printable(name) {
        Ok(())
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.")
    }
}

/// CLIENT SETINFO.
fn setinfo(profile: &mut Profile, args: Args<'_>) -> Result<(), Vec<u8>> {
    let (option, value) = (printed(args.get(2)), args.get(3));
    let field = match option.to_ascii_lowercase().as_slice() {
        b"lib-name" => &mut profile.lib_name,
        b"lib-ver" => &mut profile.lib_ver,
        _ => return Err([b"ERR Unrecognized option '", option, b"'"].concat()),
    };
    if !is_printable(value) {
        const TEXT: &[u8] = b" cannot contain spaces, newlines or special characters.";
        return Err([b"ERR ", option, TEXT].concat());
    }
    *field = value.to_vec();
    Ok(())
}

/// Whether a filter by type takes the connections that there are, which are all of the first.
fn is_normal(name: &[u8]) -> Result<bool, Vec<u8>> {
    const TYPES: [&str; 5] = ["normal", "slave", "replica", "pubsub", "master"];
    let known = TYPES
        .iter()
        .position(|known| known.as_bytes().eq_ignore_ascii_case(name));
    match known {
        Some(at) => Ok(at == 0),
        None => Err([b"ERR Unknown client type '", printed(name), b"'"].concat()),
    }
}

/// Whom CLIENT KILL means.
struct KillFilter<'a> {
    id: Option<i64>,
    address: Option<&'a [u8]>,
    /// Something that no connection has.
    nobody: bool,
    skip_me: bool,
    /// The old form, which replies OK.
    by_address_alone: bool,
}

impl<'a> KillFilter<'a> {
    /// Reads pair by pair, so that errors come in Redis's order.
    fn parse(args: Args<'a>) -> Result<Self, Vec<u8>> {
        let mut filter = Self {
            id: None,
            address: None,
            nobody: false,
            skip_me: true,
            by_address_alone: false,
        };
        if args.len() == 3 {
            filter.address = Some(args.get(2));
            filter.by_address_alone = true;
            filter.skip_me = false;
            return Ok(filter);
        }
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
        let serial = i64::try_from(other.serial).unwrap_or(i64::MAX);
        !self.nobody && self.id.is_none_or(|id| id == serial) && self.address.is_none_or(is)
    }
}

/// The settings that Redis tools ask for, with what is true here.
fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let fixed = [
        ("appendfsync", "always"),
        ("appendonly", "yes"),
        ("cluster-enabled", "no"),
        ("databases", "1"),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("proto-max-bulk-len", "33554432"),
        ("save", ""),
        ("timeout", "0"),
    ];
    let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
    let port = ("port", config.port.to_string());
    fixed.into_iter().chain([port]).collect()
}

fn config_get(config: &Config, args: Args<'_>, replies: &mut Replies<'_>) {
    let mut found = settings(config);
    found.retain(|(name, _)| {
        let mut patterns = args.iter().skip(2);
        patterns.any(|pattern| matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    });
    replies.map(found.len());
    for (name, value) in found {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
}

/// CONFIG SET: what is known is not set here, anything else is not known.
fn config_set(config: &Config, args: Args<'_>, replies: &mut Replies<'_>) {
    if !args.len().is_multiple_of(2) {
        return replies.error(SYNTAX);
    }
    let known = settings(config);
    let is_known = |name: &&[u8]| {
        let mut names = known.iter();
        names.any(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
    };
    let mut names = args.iter().skip(2).step_by(2);
    let text = match names.find(|name| !is_known(name)) {
        Some(name) => [
            &b"ERR Unknown option or number of arguments for CONFIG SET - '"[..],
            printed(name),
            b"'",
        ],
        None => [
            &b"ERR CONFIG SET failed - '"[..],
            printed(args.get(2)),
            b"' is not set while a router runs",
        ],
    };
    replies.error_bytes(&text.concat());
}
