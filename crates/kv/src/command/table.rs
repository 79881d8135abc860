//! The table of all commands, and looking them up.
//!
//! A family of commands is one file with one constant list; adding a family is one line here.

use crate::command::spec::Spec;
use crate::command::{
    connection, counting, expiry, introspect, keys, scan, session, strings, sweep, transaction,
};

/// The families.
const FAMILIES: &[&[Spec]] = &[
    strings::SPECS,
    counting::SPECS,
    keys::SPECS,
    expiry::SPECS,
    scan::SPECS,
    session::SPECS,
    transaction::SPECS,
    sweep::SPECS,
    introspect::SPECS,
    connection::SPECS,
];

/// Places of the name index: a power of two, at least four times the number of commands.
const NAME_PLACES: usize = 512;

/// The largest operation number, plus one.
const OPERATIONS: usize = 512;

/// Longer names are not in the table.
const NAME_BYTES_MAX: usize = 24;

static NAMES: [Option<&'static Spec>; NAME_PLACES] = index_names();
static BY_OPERATION: [Option<&'static Spec>; OPERATIONS] = index_operations();

const COUNT: usize = {
    let mut count = 0;
    let mut family = 0;
    while family < FAMILIES.len() {
        count += FAMILIES[family].len();
        family += 1;
    }
    count
};

const _: () = assert!(COUNT * 4 <= NAME_PLACES, "the name index is too small");

/// All commands, in the order of the families; subcommands are within their containers.
pub fn all() -> impl Iterator<Item = &'static Spec> + Clone {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// How many commands there are.
#[must_use]
pub const fn count() -> usize {
    COUNT
}

/// The command of this name, in any case of letters.
#[must_use]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut place = hash_name(name) % NAME_PLACES;
    while let Some(spec) = NAMES[place] {
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        place = (place + 1) % NAME_PLACES;
    }
    None
}

/// The subcommand of this name, in any case of letters.
#[must_use]
pub fn lookup_subcommand(container: &'static Spec, name: &[u8]) -> Option<&'static Spec> {
    let prefix = container.name.len() + 1;
    container
        .subcommands
        .iter()
        .find(|spec| spec.name.as_bytes()[prefix..].eq_ignore_ascii_case(name))
}

/// The command that has this number in encoded commands.
pub(crate) fn by_operation(operation: u16) -> Option<&'static Spec> {
    *BY_OPERATION.get(usize::from(operation))?
}

/// FNV-1a over the lower-case letters: names are short, and the table is fixed.
const fn hash_name(name: &[u8]) -> usize {
    let mut hash = 0x811c_9dc5u32;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ name[at].to_ascii_lowercase() as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    (hash ^ hash >> 15) as usize
}

const fn index_names() -> [Option<&'static Spec>; NAME_PLACES] {
    let mut places: [Option<&'static Spec>; NAME_PLACES] = [None; NAME_PLACES];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut number = 0;
        while number < FAMILIES[family].len() {
            let spec = &FAMILIES[family][number];
            assert!(spec.name.len() <= NAME_BYTES_MAX, "a name is too long");
            let mut place = hash_name(spec.name.as_bytes()) % NAME_PLACES;
            while places[place].is_some() {
                place = (place + 1) % NAME_PLACES;
            }
            places[place] = Some(spec);
            number += 1;
        }
        family += 1;
    }
    places
}

const fn index_operations() -> [Option<&'static Spec>; OPERATIONS] {
    let mut places: [Option<&'static Spec>; OPERATIONS] = [None; OPERATIONS];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut number = 0;
        while number < FAMILIES[family].len() {
            let spec = &FAMILIES[family][number];
            places = with_operation(places, spec);
            let mut subcommand = 0;
            while subcommand < spec.subcommands.len() {
                places = with_operation(places, &spec.subcommands[subcommand]);
                subcommand += 1;
            }
            number += 1;
        }
        family += 1;
    }
    places
}

const fn with_operation(
    mut places: [Option<&'static Spec>; OPERATIONS],
    spec: &'static Spec,
) -> [Option<&'static Spec>; OPERATIONS] {
    let operation = spec.operation as usize;
    if operation != 0 {
        assert!(
            places[operation].is_none(),
            "an operation number is used twice"
        );
        places[operation] = Some(spec);
    }
    places
}
