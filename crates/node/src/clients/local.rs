//! Commands that a node answers by itself, without the keyspace.

use kvorum_base::Slot;
use kvorum_clients::{Profile, command, handshake};
use kvorum_kv::{NodeCommand, Spread};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies};

use super::connections::Client;
use super::face::{self, Facts};
use super::{config_command, info, links};
use crate::config::Member;
use crate::event::Door;
use crate::group::batch::ReplyTo;
use crate::group::waits::Wait;
use crate::manager::MANAGER;
use crate::node::Node;

/// Runs such a command.
pub(crate) fn run(
    node: &mut Node,
    client: &mut Client,
    seq: u32,
    command: NodeCommand,
    args: Args<'_>,
) {
    use NodeCommand as Is;
    match command {
        Is::Hello => hello(node, client, seq, args),
        Is::Auth => auth(node, client, seq, args),
        Is::Quit => {
            client.connection.close_after(seq);
            client.connection.reply(seq, |replies| replies.ok());
        }
        Is::Reset => {
            client.is_readonly = false;
            client.watches.forget();
            handshake::reset(client.parts(), seq, node.shared.config.password.as_deref());
        }
        Is::Readonly | Is::Readwrite => {
            client.is_readonly = command == Is::Readonly;
            client.connection.reply(seq, |replies| replies.ok());
        }
        Is::ClientReply => client_reply(client, seq, args),
        Is::ClientKill => client_kill(node, client, seq, args),
        Is::Wait => wait(node, client, seq, args),
        Is::Role => role(node, client, seq),
        Is::Link => links::link(client, seq, args),
        Is::ClusterSlots | Is::ClusterNodes => cluster_map(node, client, seq, command),
        Is::ClusterFailover => fail_over(node, client, seq, args),
        _ => {
            let Client {
                profile,
                connection,
                door,
                ..
            } = client;
            let from = (&mut *profile, *door);
            connection.reply(seq, |replies| answer(node, from, command, args, replies));
        }
    }
}

/// Commands that change nothing but perhaps what a connection says of itself.
pub(super) fn answer(
    node: &Node,
    (profile, door): (&mut Profile, Door),
    command: NodeCommand,
    args: Args<'_>,
    replies: &mut Replies<'_>,
) {
    use NodeCommand as Is;
    let (config, table) = (&node.shared.config, &node.shared.table);
    match command {
        Is::Ping => ping(args, replies),
        Is::Select => select(args, replies),
        Is::ClientId => replies.integer(profile.serial as i64),
        Is::ClientGetname => command::getname(profile, replies),
        Is::ClientSetname => command::setname(profile, args, replies),
        Is::ClientSetinfo => command::setinfo(profile, args, replies),
        Is::ClientInfo => {
            replies.verbatim("txt", &format!("{}\n", profile.line(table.now_tick())));
        }
        Is::ClientList => {
            command::list(
                table.profiles_with(profile),
                table.now_tick(),
                args,
                replies,
            );
        }
        Is::ClientNoEvict | Is::ClientNoTouch => command::on_or_off(args, replies),
        Is::Info => {
            let wanted: Vec<String> = (args.iter().skip(1))
                .map(|section| String::from_utf8_lossy(section).to_ascii_lowercase())
                .collect();
            let primary = followed(node, door);
            replies.verbatim("txt", &info::info(&node.status(), primary, &wanted));
        }
        Is::ConfigGet => config_command::get(config, args, replies),
        Is::ConfigSet => config_command::set(config, args, replies),
        // Counters only grow, so that rates can be computed from them.
        Is::ConfigResetstat | Is::Unwatch => replies.ok(),
        Is::Time => time(node, replies),
        Is::ClusterShards
        | Is::ClusterInfo
        | Is::ClusterMyid
        | Is::ClusterMyshardid
        | Is::ClusterKeyslot
        | Is::ClusterCountkeysinslot
        | Is::ClusterGetkeysinslot
        | Is::ClusterReplicas
        | Is::ClusterLinks => cluster(node, door, command, args, replies),
        Is::Hello
        | Is::Auth
        | Is::Quit
        | Is::Reset
        | Is::Readonly
        | Is::Readwrite
        | Is::ClientReply
        | Is::ClientKill
        | Is::Wait
        | Is::Role
        | Is::ClusterSlots
        | Is::ClusterNodes
        | Is::ClusterFailover
        | Is::Link
        | Is::Multi
        | Is::Exec
        | Is::Discard
        | Is::Watch => unreachable!("{command:?} is run with its client"),
    }
}

fn ping(args: Args<'_>, replies: &mut Replies<'_>) {
    match args.len() {
        1 => replies.simple("PONG"),
        2 => replies.bulk(args.get(1)),
        _ => replies.error("ERR wrong number of arguments for 'ping' command"),
    }
}

fn auth(node: &Node, client: &mut Client, seq: u32, args: Args<'_>) {
    let result = handshake::auth(node.shared.config.password.as_deref(), args);
    if result.is_ok() {
        client.connection.set_authenticated(true);
    }
    client.connection.reply(seq, |replies| match result {
        Ok(()) => replies.ok(),
        Err(text) => replies.error(text),
    });
}

fn hello(node: &Node, client: &mut Client, seq: u32, args: Args<'_>) {
    let password = node.shared.config.password.as_deref();
    let role = match client.door {
        Door::Primary => "master",
        Door::Replica => "replica",
    };
    let result = handshake::hello(client.parts(), seq, password, ("cluster", role), args);
    if let Err(text) = result {
        client
            .connection
            .reply(seq, |replies| replies.error_bytes(&text));
    }
}

/// SELECT: a cluster has one database.
fn select(args: Args<'_>, replies: &mut Replies<'_>) {
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

/// What CLIENT REPLY does takes effect with its own reply.
fn client_reply(client: &mut Client, seq: u32, args: Args<'_>) {
    match command::reply_mode(args) {
        Some(mode) => {
            client.connection.set_reply_mode(seq, mode);
            client.connection.reply(seq, |replies| replies.ok());
        }
        None => {
            client
                .connection
                .reply(seq, |replies| replies.error("ERR syntax error"));
        }
    }
}

fn client_kill(node: &mut Node, client: &mut Client, seq: u32, args: Args<'_>) {
    let mut killed = Vec::new();
    let Client {
        profile,
        connection,
        ..
    } = client;
    let table = &mut node.shared.table;
    connection.reply(seq, |replies| {
        killed = command::kill(profile.conn, table.profiles_with(profile), args, replies);
    });
    for conn in killed {
        if conn == profile.conn {
            connection.close_when_answered();
        } else if let Some(other) = table.get_mut(conn) {
            other.connection.close_when_answered();
            table.revisit(conn);
        }
    }
}

/// Seconds and microseconds: the wall clock of this node, for people; nothing is decided by it.
fn time(node: &Node, replies: &mut Replies<'_>) {
    let config = &node.shared.config;
    let now = node
        .shared
        .clocks
        .of(config.node, node.shared.now_tick)
        .unwrap_or_default();
    replies.array(2);
    replies.bulk((now.get() / 1000).to_string().as_bytes());
    replies.bulk((now.get() % 1000 * 1000).to_string().as_bytes());
}

/// At the port for replicas: the primary of the first shard that is followed here, and how far it is applied.
fn followed(node: &Node, door: Door) -> Option<(&Member, u64)> {
    let config = &node.shared.config;
    let mut shards = node.shards().filter(|_| door == Door::Replica);
    let group = shards.find(|group| group.follows(config.node))?;
    let applied = group.state.as_ref()?.applied.get();
    Some((config.members.get(&group.primary()?)?, applied))
}

/// ROLE: a node is announced as a primary, with the followers of what it leads; at the port for replicas as
/// a replica.
fn role(node: &Node, client: &mut Client, seq: u32) {
    if let Some((primary, applied)) = followed(node, client.door) {
        client.connection.reply(seq, |replies| {
            replies.array(5);
            replies.bulk(b"slave");
            replies.bulk(primary.host.as_bytes());
            replies.integer(i64::from(primary.port));
            replies.bulk(b"connected");
            replies.integer(i64::try_from(applied).unwrap_or(i64::MAX));
        });
        return;
    }
    let led = node
        .shards()
        .find(|group| group.leading())
        .map(|group| group.status());
    let members = &node.shared.config.members;
    client.connection.reply(seq, |replies| {
        let followers = led.as_ref().map_or(&[][..], |group| &group.followers);
        let applied = led.as_ref().map_or(0, |group| group.applied);
        replies.array(3);
        replies.bulk(b"master");
        replies.integer(i64::try_from(applied).unwrap_or(i64::MAX));
        replies.array(followers.len());
        for follower in followers {
            let member = members.get(&follower.node);
            replies.array(3);
            replies.bulk(member.map_or(&b""[..], |member| member.host.as_bytes()));
            replies.bulk(
                member
                    .map_or(0, |member| member.port)
                    .to_string()
                    .as_bytes(),
            );
            replies.bulk(follower.matched.to_string().as_bytes());
        }
    });
}

/// How many replicas WAIT wants, and for how many milliseconds.
fn wait_numbers(args: Args<'_>) -> Result<(u64, u64), &'static str> {
    /// With any clock of the next hundred years added, Redis's end of the wait is still an `i64`.
    const TIMEOUT_MS_MAX: i64 = i64::MAX - (1 << 42);
    let wanted = parse_integer(args.get(1)).ok_or("ERR value is not an integer or out of range")?;
    let timeout =
        parse_integer(args.get(2)).ok_or("ERR timeout is not an integer or out of range")?;
    match timeout {
        ..0 => Err("ERR timeout is negative"),
        0..=TIMEOUT_MS_MAX => Ok((wanted.max(0) as u64, timeout as u64)),
        _ => Err("ERR timeout is out of range"),
    }
}

/// WAIT: how many replicas, this one not counted, have the connection's writes on their disks.
fn wait(node: &mut Node, client: &mut Client, seq: u32, args: Args<'_>) {
    let (wanted, timeout_ms) = match wait_numbers(args) {
        Ok(numbers) => numbers,
        Err(text) => {
            client.connection.reply(seq, |replies| replies.error(text));
            return;
        }
    };
    let ticks = timeout_ms.div_ceil(node.shared.config.tick_ms);
    let now_tick = node.shared.now_tick;
    let until_tick = (timeout_ms > 0).then(|| now_tick + ticks);
    let mut led: Vec<_> = (node.groups.iter_mut())
        .filter(|group| group.leading() && group.id != MANAGER)
        .map(|group| (client.last_write(group.id), group))
        .collect();
    // Those that it wrote to; one that it did not write to says how many follow it.
    led.sort_by_key(|(after, _)| std::cmp::Reverse(*after));
    let wrote = led.iter().filter(|(after, _)| *after > 0).count();
    led.truncate(wrote.max(1));
    if led.is_empty() {
        client.connection.reply(seq, |replies| replies.integer(0));
        return;
    }
    let reply_to = ReplyTo {
        conn: client.profile.conn,
        seq,
        slot: Slot::default(),
        is_read: true,
        is_part: led.len() > 1,
    };
    if reply_to.is_part {
        let gathers = &mut node.shared.table.gathers;
        gathers.begin(reply_to, Spread::Least, true, led.len());
    }
    for (after, group) in led {
        group.waits.push(Wait {
            reply_to,
            after,
            wanted,
            until_tick,
        });
    }
}

fn cluster(
    node: &Node,
    door: Door,
    command: NodeCommand,
    args: Args<'_>,
    replies: &mut Replies<'_>,
) {
    let shards = node.shard_facts();
    let keyspace = |slot| node.keyspace_of(slot);
    let facts = Facts {
        config: &node.shared.config,
        shards: &shards,
        door,
        keyspace: &keyspace,
    };
    face::cluster(&facts, command, args, replies);
}

/// CLUSTER SLOTS and CLUSTER NODES.
fn cluster_map(node: &mut Node, client: &mut Client, seq: u32, command: NodeCommand) {
    let shards = node.shard_facts();
    let mut faces = std::mem::take(&mut node.shared.faces);
    let facts = Facts {
        config: &node.shared.config,
        shards: &shards,
        door: client.door,
        keyspace: &|slot| node.keyspace_of(slot),
    };
    let version = client.connection.version(seq);
    let reply = faces.reply(&facts, command, version);
    client
        .connection
        .reply(seq, |replies| replies.encoded(reply));
    node.shared.faces = faces;
}

/// CLUSTER FAILOVER, at the port for replicas: the primaries of the shards that are followed here are asked
/// to hand over to this node. As in Redis, OK says that it was begun.
fn fail_over(node: &mut Node, client: &mut Client, seq: u32, args: Args<'_>) {
    let asked = may_fail_over(client.door, args).and_then(|()| {
        let (own, shared) = (node.shared.config.node, &mut node.shared);
        let shards = node.groups.iter_mut().filter(|group| group.id != MANAGER);
        let followed = shards.filter(|group| group.follows(own));
        let asked = followed.map(|group| group.ask_to_lead(shared)).count();
        match asked {
            0 => Err("ERR I'm a replica but my master is unknown to me"),
            _ => Ok(()),
        }
    });
    client.connection.reply(seq, |replies| match asked {
        Ok(()) => replies.ok(),
        Err(text) => replies.error(text),
    });
}

fn may_fail_over(door: Door, args: Args<'_>) -> Result<(), &'static str> {
    let has_option = |name: &[u8]| args.len() == 3 && args.get(2).eq_ignore_ascii_case(name);
    if has_option(b"force") || has_option(b"takeover") {
        return Err(
            "ERR FORCE and TAKEOVER are not supported: a majority of a shard whose primary is gone elects \
             another by itself, and without a majority acknowledged writes would be lost",
        );
    }
    match (args.len(), door) {
        (3.., _) => Err("ERR syntax error"),
        (_, Door::Primary) => Err("ERR You should send CLUSTER FAILOVER to a replica"),
        (_, Door::Replica) => Ok(()),
    }
}
