//! COMMAND: the table, told to clients. They place keys, choose replicas and print help by it.

use kvorum_resp::{Args, Replies};

use crate::command::refusal::{Refusal, SYNTAX};
use crate::command::spec::{Categories, Flags, Group, Keys, Run, Spec};
use crate::command::{keys_of, table};
use crate::glob;

const ANY_ORDER: &[&str] = &["nondeterministic_output_order"];
const LOADING_STALE: Flags = Flags::LOADING.with(Flags::STALE);

/// The commands.
pub(super) const SPECS: &[Spec] = &[command("command", -1, all)
    .tips(ANY_ORDER)
    .docs(Group::Server, "2.8.13", "Tells of all commands.")
    .complexity("O(N) in the number of commands")
    .subcommands(COMMAND)];

const COMMAND: &[Spec] = &[
    command("command|count", 2, count).docs(Group::Server, "2.8.13", "Counts the commands."),
    command("command|docs", -2, docs).tips(ANY_ORDER).docs(
        Group::Server,
        "7.0.0",
        "Tells what commands are for.",
    ),
    command("command|getkeys", -4, getkeys).docs(
        Group::Server,
        "2.8.13",
        "Finds the keys in a request.",
    ),
    command("command|getkeysandflags", -4, getkeysandflags).docs(
        Group::Server,
        "7.0.0",
        "Finds the keys in a request, and what happens to them.",
    ),
    command("command|help", 2, help).docs(Group::Server, "5.0.0", "Lists the subcommands."),
    command("command|info", -2, info).tips(ANY_ORDER).docs(
        Group::Server,
        "2.8.13",
        "Tells of some commands.",
    ),
    command("command|list", -2, list).tips(ANY_ORDER).docs(
        Group::Server,
        "7.0.0",
        "Lists the names of commands.",
    ),
];

const fn command(name: &'static str, arity: i32, run: crate::command::spec::Pure) -> Spec {
    Spec::pure(name, arity, run)
        .flags(LOADING_STALE)
        .categories(Categories::CONNECTION)
}

fn all(_: Args<'_>, replies: &mut Replies<'_>) {
    replies.array(table::count());
    for spec in table::all() {
        describe(spec, replies);
    }
}

fn count(_: Args<'_>, replies: &mut Replies<'_>) {
    replies.integer(table::count() as i64);
}

fn info(args: Args<'_>, replies: &mut Replies<'_>) {
    if args.len() == 2 {
        return all(args, replies);
    }
    replies.array(args.len() - 2);
    for name in args.iter().skip(2) {
        match by_full_name(name) {
            Some(spec) => describe(spec, replies),
            None => replies.null(),
        }
    }
}

/// `container|name`, or a name alone.
fn by_full_name(name: &[u8]) -> Option<&'static Spec> {
    match name.iter().position(|&byte| byte == b'|') {
        None => table::lookup(name),
        Some(bar) => table::lookup_subcommand(table::lookup(&name[..bar])?, &name[bar + 1..]),
    }
}

/// One command, in the ten parts of Redis 7.
fn describe(spec: &Spec, replies: &mut Replies<'_>) {
    let (first, last, step) = match spec.keys {
        Keys::Range { first, last, step } => (first, last, step),
        Keys::None | Keys::Wrapped { .. } | Keys::Transaction => (0, 0, 0),
    };
    replies.array(10);
    replies.bulk(spec.name.as_bytes());
    replies.integer(i64::from(spec.arity));
    names(spec.flags.names(), replies);
    replies.integer(i64::from(first));
    replies.integer(i64::from(last));
    replies.integer(i64::from(step));
    names(spec.all_categories().names(), replies);
    replies.set(spec.tips.len());
    for tip in spec.tips {
        replies.bulk(tip.as_bytes());
    }
    describe_keys(spec, replies);
    if spec.subcommands.is_empty() {
        replies.set(0);
    } else {
        replies.array(spec.subcommands.len());
        for subcommand in spec.subcommands {
            describe(subcommand, replies);
        }
    }
}

fn names(names: impl Iterator<Item = &'static str> + Clone, replies: &mut Replies<'_>) {
    replies.set(names.clone().count());
    for name in names {
        replies.simple(name);
    }
}

/// The key specifications: none or one.
fn describe_keys(spec: &Spec, replies: &mut Replies<'_>) {
    let word = |replies: &mut Replies<'_>, word: &str| replies.bulk(word.as_bytes());
    let unknown = |replies: &mut Replies<'_>| {
        replies.map(2);
        word(replies, "type");
        word(replies, "unknown");
        word(replies, "spec");
        replies.map(0);
    };
    replies.set(usize::from(spec.keys != Keys::None));
    if spec.keys == Keys::None {
        return;
    }
    replies.map(3 + usize::from(!spec.access_notes.is_empty()));
    if !spec.access_notes.is_empty() {
        word(replies, "notes");
        word(replies, spec.access_notes);
    }
    word(replies, "flags");
    names(spec.access.iter().copied(), replies);
    word(replies, "begin_search");
    let Keys::Range { first, last, step } = spec.keys else {
        unknown(replies);
        word(replies, "find_keys");
        return unknown(replies);
    };
    replies.map(2);
    word(replies, "type");
    word(replies, "index");
    word(replies, "spec");
    replies.map(1);
    word(replies, "index");
    replies.integer(i64::from(first));
    word(replies, "find_keys");
    replies.map(2);
    word(replies, "type");
    word(replies, "range");
    word(replies, "spec");
    replies.map(3);
    word(replies, "lastkey");
    // Here, unlike above, counted from the first key.
    replies.integer(i64::from(if last < 0 { last } else { last - first }));
    word(replies, "keystep");
    replies.integer(i64::from(step));
    word(replies, "limit");
    replies.integer(0);
}

fn docs(args: Args<'_>, replies: &mut Replies<'_>) {
    if args.len() == 2 {
        replies.map(table::count());
        for spec in table::all() {
            document(spec, replies);
        }
        return;
    }
    let known: Vec<&Spec> = args.iter().skip(2).filter_map(by_full_name).collect();
    replies.map(known.len());
    for spec in known {
        document(spec, replies);
    }
}

fn document(spec: &Spec, replies: &mut Replies<'_>) {
    replies.bulk(spec.name.as_bytes());
    let subcommands = usize::from(!spec.subcommands.is_empty());
    let deprecated = if spec.deprecated.is_some() { 3 } else { 0 };
    replies.map(4 + deprecated + subcommands);
    for (title, text) in [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group.name()),
        ("complexity", spec.complexity),
    ] {
        replies.bulk(title.as_bytes());
        replies.bulk(text.as_bytes());
    }
    if let Some((since, replaced_by)) = spec.deprecated {
        replies.bulk(b"doc_flags");
        names(std::iter::once("deprecated"), replies);
        replies.bulk(b"deprecated_since");
        replies.bulk(since.as_bytes());
        replies.bulk(b"replaced_by");
        replies.bulk(replaced_by.as_bytes());
    }
    if !spec.subcommands.is_empty() {
        replies.bulk(b"subcommands");
        replies.map(spec.subcommands.len());
        for subcommand in spec.subcommands {
            document(subcommand, replies);
        }
    }
}

/// COMMAND LIST [FILTERBY (MODULE name | ACLCAT category | PATTERN pattern)].
fn list(args: Args<'_>, replies: &mut Replies<'_>) {
    let wanted: Vec<&'static str> = match args.len() {
        2 => table::all().map(|spec| spec.name).collect(),
        5 if args.get(2).eq_ignore_ascii_case(b"filterby") => {
            match filtered(args.get(3), args.get(4)) {
                Some(names) => names,
                None => return SYNTAX.reply(replies),
            }
        }
        _ => return SYNTAX.reply(replies),
    };
    replies.array(wanted.len());
    for name in wanted {
        replies.bulk(name.as_bytes());
    }
}

/// The names, subcommands' among them, that a filter leaves; `None` if there is no such filter.
fn filtered(filter: &[u8], value: &[u8]) -> Option<Vec<&'static str>> {
    let is = |name: &[u8]| filter.eq_ignore_ascii_case(name);
    let every = table::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    if is(b"module") {
        Some(Vec::new())
    } else if is(b"pattern") {
        Some(
            every
                .filter(|spec| glob::matches_ignoring_case(value, spec.name.as_bytes()))
                .map(|spec| spec.name)
                .collect(),
        )
    } else if is(b"aclcat") {
        let in_category = |spec: &&Spec| {
            spec.all_categories()
                .names()
                .any(|name| name.as_bytes()[1..].eq_ignore_ascii_case(value))
        };
        Some(every.filter(in_category).map(|spec| spec.name).collect())
    } else {
        None
    }
}

fn getkeys(args: Args<'_>, replies: &mut Replies<'_>) {
    match keys_in(args) {
        Err(refusal) => refusal.reply(replies),
        Ok((_, keys)) => {
            replies.array(keys.len());
            for key in keys {
                replies.bulk(key);
            }
        }
    }
}

fn getkeysandflags(args: Args<'_>, replies: &mut Replies<'_>) {
    match keys_in(args) {
        Err(refusal) => refusal.reply(replies),
        Ok((spec, keys)) => {
            replies.array(keys.len());
            for key in keys {
                replies.array(2);
                replies.bulk(key);
                names(access_of(spec, args.skip(2)).iter().copied(), replies);
            }
        }
    }
}

/// What this very request does with its keys: SET reads the old value only if it is asked to tell it.
fn access_of(spec: &Spec, request: Args<'_>) -> &'static [&'static str] {
    if !spec.access.contains(&"variable_flags") {
        return spec.access;
    }
    let tells_old = |word: &[u8]| word.eq_ignore_ascii_case(b"get");
    if request.iter().skip(3).any(tells_old) {
        &["RW", "access", "update"]
    } else {
        &["OW", "update"]
    }
}

/// The keys of the request behind the first two arguments.
fn keys_in(args: Args<'_>) -> Result<(&'static Spec, Vec<&[u8]>), Refusal> {
    let request = args.skip(2);
    let spec = table::lookup(request.get(0))
        .and_then(|spec| match request.len() {
            1 => Some(spec),
            _ if spec.subcommands.is_empty() => Some(spec),
            _ => table::lookup_subcommand(spec, request.get(1)),
        })
        .ok_or(Refusal::new("ERR Invalid command specified"))?;
    if spec.keys == Keys::None {
        return Err(Refusal::new("ERR The command has no key arguments"));
    }
    if !spec.takes(request.len()) {
        return Err(Refusal::new(
            "ERR Invalid number of arguments specified for command",
        ));
    }
    let keys: Vec<&[u8]> = keys_of(spec, request).collect();
    if keys.is_empty() {
        return Err(Refusal::new("ERR Invalid arguments specified for command"));
    }
    Ok((spec, keys))
}

/// `<CONTAINER> HELP`, out of the table.
pub(super) fn help(args: Args<'_>, replies: &mut Replies<'_>) {
    let Some(container) = table::lookup(args.get(0)) else {
        return SYNTAX.reply(replies);
    };
    let alone = usize::from(!matches!(container.run, Run::Container));
    let name = container.name.to_ascii_uppercase();
    replies.array(1 + 2 * alone + 2 * container.subcommands.len());
    replies.simple(&format!(
        "{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    ));
    if alone == 1 {
        replies.simple("(no subcommand)");
        replies.simple(&format!("    {}", container.summary));
    }
    let prefix = container.name.len() + 1;
    for subcommand in container.subcommands {
        replies.simple(&subcommand.name[prefix..].to_ascii_uppercase());
        replies.simple(&format!("    {}", subcommand.summary));
    }
}
