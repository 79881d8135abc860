//! Random requests about the connection, the table of commands and the cluster, and bytes that are no
//! requests.

use super::permitted::Agree;
use super::requests::{Args, Maker, words};
use super::servers::encoded;

const CONNECTION: &[(&str, Agree)] = &[
    ("PING", Agree::Exact),
    ("PING hello", Agree::Exact),
    ("PING a b", Agree::Exact),
    ("ECHO hello", Agree::Exact),
    ("ECHO", Agree::Exact),
    ("SELECT 0", Agree::Exact),
    ("SELECT 1", Agree::Exact),
    ("SELECT 16", Agree::Exact),
    ("SELECT -1", Agree::Exact),
    ("SELECT 00", Agree::Exact),
    ("SELECT +0", Agree::Exact),
    ("SELECT x", Agree::Exact),
    ("SELECT 99999999999", Agree::Exact),
    ("SELECT 99999999999999999999", Agree::Exact),
    ("AUTH x", Agree::Exact),
    ("AUTH default x", Agree::Exact),
    ("AUTH other x", Agree::Exact),
    ("AUTH default x y", Agree::Exact),
    ("AUTH", Agree::Exact),
    ("HELLO", Agree::Shape),
    ("HELLO 2", Agree::Shape),
    ("HELLO 3", Agree::Shape),
    ("HELLO 3", Agree::Shape),
    ("HELLO 4", Agree::Exact),
    ("HELLO 1", Agree::Exact),
    ("HELLO -2", Agree::Exact),
    ("HELLO +3", Agree::Exact),
    ("HELLO 03", Agree::Exact),
    ("HELLO x", Agree::Exact),
    ("HELLO 99999999999999999999", Agree::Exact),
    ("HELLO 3 FOO", Agree::Exact),
    ("HELLO 3 AUTH", Agree::Exact),
    ("HELLO 3 AUTH default", Agree::Exact),
    ("HELLO 3 auth default x", Agree::Shape),
    ("HELLO 3 AUTH other x", Agree::Exact),
    ("HELLO 2 setname me", Agree::Shape),
    ("HELLO 2 SETNAME", Agree::Exact),
    ("HELLO 2 SETNAME a\nb", Agree::Exact),
    ("HELLO 3 SETNAME you AUTH default x", Agree::Shape),
    ("HELLO x FOO", Agree::Exact),
    ("HELLO 4 FOO", Agree::Exact),
    ("RESET", Agree::Exact),
    ("RESET x", Agree::Exact),
    ("TIME", Agree::Shape),
    ("TIME 1", Agree::Exact),
    ("ROLE", Agree::Shape),
    ("WAIT 0 0", Agree::Exact),
    ("WAIT 0 10", Agree::Exact),
    ("WAIT -1 0", Agree::Exact),
    ("WAIT x 0", Agree::Exact),
    ("WAIT 0 x", Agree::Exact),
    ("WAIT x x", Agree::Exact),
    ("WAIT 0 -1", Agree::Exact),
    ("WAIT 0 1.5", Agree::Exact),
    ("WAIT 0 99999999999999999999", Agree::Exact),
    ("READONLY", Agree::Exact),
    ("READWRITE", Agree::Exact),
    ("INFO", Agree::Kind),
    ("INFO server", Agree::Kind),
    ("INFO nothing", Agree::Kind),
    ("INFO SERVER clients", Agree::Kind),
    ("CONFIG GET nothing-like-this", Agree::Exact),
    ("CONFIG GET save", Agree::Shape),
    ("CONFIG GET SAVE appendonly", Agree::Shape),
    ("CONFIG GET maxmemory maxmemory databases", Agree::Shape),
    ("CONFIG GET *", Agree::Kind),
    ("CONFIG GET", Agree::Exact),
    ("CONFIG RESETSTAT", Agree::Exact),
    ("CONFIG SET", Agree::Exact),
    ("CONFIG SET a", Agree::Exact),
    ("CONFIG SET save", Agree::Exact),
    ("CONFIG SET nothing-like-this 1", Agree::Exact),
    ("CONFIG FOO", Agree::Exact),
    ("CONFIG", Agree::Exact),
    ("CONFIG HELP", Agree::Kind),
    ("CONFIG HELP x", Agree::Exact),
];

const CLIENT: &[(&str, Agree)] = &[
    ("CLIENT", Agree::Exact),
    ("CLIENT FOO", Agree::Exact),
    ("CLIENT HELP", Agree::Kind),
    ("CLIENT ID", Agree::Shape),
    ("CLIENT ID x", Agree::Exact),
    ("CLIENT GETNAME", Agree::Exact),
    ("CLIENT SETNAME me", Agree::Exact),
    ("CLIENT SETNAME ", Agree::Exact),
    ("CLIENT SETNAME a\nb", Agree::Exact),
    ("CLIENT SETNAME caf\u{e9}", Agree::Exact),
    ("CLIENT SETNAME", Agree::Exact),
    ("CLIENT INFO", Agree::Shape),
    ("CLIENT LIST", Agree::Shape),
    ("CLIENT LIST TYPE normal", Agree::Shape),
    ("CLIENT LIST TYPE pubsub", Agree::Exact),
    ("CLIENT LIST TYPE replica", Agree::Exact),
    ("CLIENT LIST TYPE foo", Agree::Exact),
    ("CLIENT LIST TYPE Foo", Agree::Exact),
    ("CLIENT LIST TYPE", Agree::Exact),
    ("CLIENT LIST ID", Agree::Exact),
    ("CLIENT LIST ID 99999999", Agree::Exact),
    ("CLIENT LIST ID x", Agree::Exact),
    ("CLIENT LIST ID 0", Agree::Exact),
    ("CLIENT LIST ID +1", Agree::Exact),
    ("CLIENT LIST ID 99999999 x", Agree::Exact),
    ("CLIENT LIST FOO", Agree::Exact),
    ("CLIENT LIST FOO x", Agree::Exact),
    ("CLIENT KILL", Agree::Exact),
    ("CLIENT KILL 1.2.3.4:5", Agree::Exact),
    ("CLIENT KILL ID 99999999", Agree::Exact),
    ("CLIENT KILL ID 0", Agree::Exact),
    ("CLIENT KILL ID x", Agree::Exact),
    ("CLIENT KILL ID", Agree::Exact),
    ("CLIENT KILL ADDR 1.2.3.4:5", Agree::Exact),
    ("CLIENT KILL LADDR 1.2.3.4:5", Agree::Exact),
    ("CLIENT KILL ADDR 1.2.3.4:5 SKIPME no", Agree::Exact),
    ("CLIENT KILL ADDR 1.2.3.4:5 SKIPME maybe", Agree::Exact),
    ("CLIENT KILL TYPE foo", Agree::Exact),
    ("CLIENT KILL TYPE pubsub", Agree::Exact),
    ("CLIENT KILL TYPE replica", Agree::Exact),
    ("CLIENT KILL TYPE Master", Agree::Exact),
    ("CLIENT KILL USER nobody", Agree::Exact),
    ("CLIENT KILL USER default ID 99999999", Agree::Exact),
    ("CLIENT KILL FOO bar", Agree::Exact),
    ("CLIENT KILL ID 99999999 FOO", Agree::Exact),
    ("CLIENT NO-EVICT on", Agree::Exact),
    ("CLIENT NO-EVICT OFF", Agree::Exact),
    ("CLIENT NO-EVICT maybe", Agree::Exact),
    ("CLIENT NO-EVICT", Agree::Exact),
    ("CLIENT REPLY", Agree::Exact),
    ("CLIENT REPLY on", Agree::Exact),
    ("CLIENT REPLY maybe", Agree::Exact),
];

const INTROSPECTION: &[(&str, Agree)] = &[
    ("COMMAND COUNT x", Agree::Exact),
    ("COMMAND FOO", Agree::Exact),
    ("COMMAND HELP", Agree::Kind),
    ("COMMAND DOCS nothing", Agree::Exact),
    ("COMMAND DOCS nothing get|foo", Agree::Exact),
    ("COMMAND INFO nothing", Agree::Exact),
    (
        "COMMAND INFO nothing get|foo |get get| client|foo client|foo|bar",
        Agree::Exact,
    ),
    ("COMMAND INFO get GET Expire", Agree::Exact),
    ("COMMAND INFO client|id CLIENT|ID", Agree::Exact),
    ("COMMAND LIST FILTERBY", Agree::Exact),
    ("COMMAND LIST FILTERBY MODULE", Agree::Exact),
    ("COMMAND LIST FILTERBY MODULE nothing", Agree::Exact),
    ("COMMAND LIST FILTERBY ACLCAT nothing", Agree::Exact),
    ("COMMAND LIST FILTERBY PATTERN nothing*", Agree::Exact),
    ("COMMAND LIST filterby pattern mse*", Agree::Kind),
    ("COMMAND LIST FILTERBY FOO x", Agree::Exact),
    ("COMMAND LIST FOO", Agree::Exact),
    ("COMMAND LIST FILTERBY PATTERN a b", Agree::Exact),
    ("COMMAND GETKEYS get", Agree::Exact),
    ("COMMAND GETKEYS nothing a b", Agree::Exact),
    ("COMMAND GETKEYS ping a", Agree::Exact),
    ("COMMAND GETKEYS ping", Agree::Exact),
    ("COMMAND GETKEYS dbsize x", Agree::Exact),
    ("COMMAND GETKEYS set k", Agree::Exact),
    ("COMMAND GETKEYS client foo", Agree::Exact),
    ("COMMAND GETKEYS client id", Agree::Exact),
    ("COMMAND GETKEYS client", Agree::Exact),
    ("COMMAND GETKEYS", Agree::Exact),
    ("COMMAND GETKEYSANDFLAGS ping", Agree::Exact),
    ("COMMAND GETKEYSANDFLAGS get", Agree::Exact),
];

const CLUSTER: &[(&str, Agree)] = &[
    ("CLUSTER", Agree::Exact),
    ("CLUSTER FOO", Agree::Exact),
    ("CLUSTER HELP", Agree::Kind),
    ("CLUSTER SLOTS", Agree::Shape),
    ("CLUSTER SLOTS x", Agree::Exact),
    ("CLUSTER SHARDS", Agree::Shape),
    ("CLUSTER NODES", Agree::Shape),
    ("CLUSTER INFO", Agree::Shape),
    ("CLUSTER MYID", Agree::Shape),
    ("CLUSTER KEYSLOT", Agree::Exact),
    ("CLUSTER COUNTKEYSINSLOT x", Agree::Exact),
    ("CLUSTER COUNTKEYSINSLOT -1", Agree::Exact),
    ("CLUSTER COUNTKEYSINSLOT 16384", Agree::Exact),
    ("CLUSTER COUNTKEYSINSLOT 99999999999999999999", Agree::Exact),
    ("CLUSTER COUNTKEYSINSLOT 1", Agree::Exact),
    ("CLUSTER GETKEYSINSLOT x 1", Agree::Exact),
    ("CLUSTER GETKEYSINSLOT 1 x", Agree::Exact),
    ("CLUSTER GETKEYSINSLOT -1 1", Agree::Exact),
    ("CLUSTER GETKEYSINSLOT 16384 1", Agree::Exact),
    ("CLUSTER GETKEYSINSLOT 1 -1", Agree::Exact),
    ("CLUSTER GETKEYSINSLOT 1 0", Agree::Exact),
    ("CLUSTER GETKEYSINSLOT 1 1000", Agree::Exact),
    ("CLUSTER REPLICAS nobody", Agree::Exact),
    ("CLUSTER LINKS", Agree::Exact),
];

/// Ends of the connection: each is answered once at most.
const ENDS: &[&[u8]] = &[
    b"*1\r\n$4\r\nQUIT\r\n",
    b"quit\r\n",
    b"*x\r\n",
    b"*99999999999\r\n",
    b"*2147483648\r\n",
    b"*-99999999999999999999\r\n",
    b"*\r\n",
    b"* 1\r\n",
    b"*+1\r\n",
    b"*01\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$99999999999\r\n",
    b"*1\r\n$33554433\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$ 4\r\nPING\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n\r\n$4\r\nPING\r\n",
    b"*2\r\n$4\r\nPING\r\n:1\r\n",
    b"SET \"a\r\n",
    b"SET 'a\r\n",
    b"SET \"a\"b c\r\n",
];

/// Ends without an answer. They come alone: Redis drops the answers to what came before.
const SILENT_ENDS: &[&[u8]] = &[
    b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"host: a\r\n",
    b"*1\r\n$4\r\npost\r\n",
];

/// Words that Redis would answer, or answer otherwise, if damage made commands of them.
const OWN_WORDS: &[&[u8]] = &[
    b"hello", b"time", b"info", b"role", b"scan", b"client", b"command", b"config", b"cluster",
    b"save", b"pubsub",
];

/// Bytes that end no connection.
const LINES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"   \r\n",
    b"PING\n",
    b"PING\r\n",
    b"  ping  \r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*-100\r\n",
    b"*1\r\n$4\r\nPINGxx",
    b"*1\rx$4\rxPINGxx",
    b"*1\r\n$0\r\n\r\n",
    b"*2\r\n$0\r\n\r\n$0\r\n\r\n",
    b"\"\"\r\n",
    b"SET \"{a}1\" 'v\\'w'\r\n",
    b"SET {a}1 \"\\x41\\n\\r\\t\\a\\b\\\\\\\"\\q\\xzz\"\r\n",
    b"GET {a}1\r\n",
    b"SET {a}\"1\" x\r\n",
    b"ECHO a\tb\r\n",
    b"ECHO\ta\r\n",
    b"ECHO a\x0bb\r\n",
    b"ECHO \xff\r\n",
    b"ECHO \"\"\r\n",
    b"ECHO ''\r\n",
    b"foo bar\r\n",
    b"set {a}1\r\n",
    b"$4\r\nPING\r\n",
    b"+OK\r\n",
    b"PING\r\rPING\r\n",
    b"PING \r\n",
];

impl Maker {
    fn listed(&mut self, list: &[(&str, Agree)]) -> (Args, Agree) {
        let (text, agree) = list[self.prng.index(list.len())];
        (words(text), agree)
    }

    pub(super) fn connection(&mut self) -> (Args, Agree) {
        match self.prng.below(8) {
            0 => (vec![b"PING".to_vec(), self.value()], Agree::Exact),
            1 => (vec![b"ECHO".to_vec(), self.value()], Agree::Exact),
            2..=4 => self.listed(CLIENT),
            _ => self.listed(CONNECTION),
        }
    }

    pub(super) fn introspection(&mut self) -> (Args, Agree) {
        if self.prng.chance(1, 2) {
            return self.listed(INTROSPECTION);
        }
        let (inner, _) = if self.prng.chance(1, 2) {
            self.expiry()
        } else {
            self.string()
        };
        let name = self.one(&["GETKEYS", "GETKEYSANDFLAGS"]);
        let args = [words("COMMAND"), words(name), inner].concat();
        (args, Agree::Exact)
    }

    pub(super) fn cluster(&mut self) -> (Args, Agree) {
        if self.prng.chance(1, 3) {
            let args = [words("CLUSTER KEYSLOT"), vec![self.value()]].concat();
            return (args, Agree::Exact);
        }
        self.listed(CLUSTER)
    }

    /// Commands that neither server knows, some with arguments that an error must not repeat in full.
    pub(super) fn unknown(&mut self) -> (Args, Agree) {
        let name = match self.prng.below(5) {
            0 => self.value(),
            1 => b"FOO".to_vec(),
            2 => vec![b'x'; self.prng.range(120, 140) as usize],
            3 => b"FOO\0x".to_vec(),
            _ => b"GETT".to_vec(),
        };
        let mut args = vec![name];
        for _ in 0..self.prng.below(6) {
            let long = self.prng.chance(1, 4);
            args.push(if long { vec![b'y'; 130] } else { self.value() });
        }
        if self.prng.chance(1, 4) {
            let container = self.one(&["CLIENT", "CONFIG", "COMMAND", "CLUSTER"]);
            args[0] = container.as_bytes().to_vec();
            args.truncate(1);
            args.push([b"?", &self.value()[..]].concat());
        }
        (args, Agree::Exact)
    }

    /// Bytes for a connection of its own; they may end it, or stop in the middle of a request.
    pub(super) fn raw(&mut self) -> Vec<u8> {
        if self.prng.chance(1, 20) {
            return SILENT_ENDS[self.prng.index(SILENT_ENDS.len())].to_vec();
        }
        let mut bytes = Vec::new();
        for _ in 0..self.prng.below(4) {
            if self.prng.chance(1, 2) {
                bytes.extend_from_slice(LINES[self.prng.index(LINES.len())]);
            } else {
                bytes.extend(encoded(&self.exact().args));
            }
        }
        match self.prng.below(4) {
            0..=1 => bytes.extend_from_slice(ENDS[self.prng.index(ENDS.len())]),
            2 => bytes.extend(self.damaged()),
            _ => {}
        }
        bytes
    }

    /// A request with a byte changed in its first ones: mostly a header. Redis looks for the end of a
    /// line in a C string and waits for ever behind a zero byte; kvorum reads on. So none has one. Nor is
    /// it one that could become another, answered with what is each server's own.
    fn damaged(&mut self) -> Vec<u8> {
        const OTHERS: &[u8] = b"*$+-:0123459x \r\n\"'";
        loop {
            let args = self.exact().args;
            let mut request = encoded(&args);
            let is_own = |arg: &Vec<u8>| OWN_WORDS.iter().any(|own| arg.eq_ignore_ascii_case(own));
            if request.contains(&0) || args.iter().any(is_own) {
                continue;
            }
            let at = self.prng.index(request.len().min(12));
            request[at] = OTHERS[self.prng.index(OTHERS.len())];
            return request;
        }
    }
}
