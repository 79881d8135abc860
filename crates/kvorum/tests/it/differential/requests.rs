//! Random requests: right ones, wrong ones, and ones at the edges of what is right.

use kvorum_base::Prng;

use super::permitted::Agree;

/// One request, and how the replies to it must agree.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) args: Vec<Vec<u8>>,
    pub(super) agree: Agree,
}

/// Keys of one slot, then others. Sums have keys of their own, see [`Agree::Sum`].
pub(super) const KEYS: &[&[u8]] = &[
    b"{a}1",
    b"{a}2",
    b"{a}3",
    b"{a}\0\xff\r\n",
    b"{a} space",
    b"{a}\xc3\xa9",
    b"",
    b"{b}1",
    b"{}x",
    b"b{a",
];
pub(super) const KEYS_OF_ONE_SLOT: usize = 6;
pub(super) const SUM_KEYS: &[&[u8]] = &[b"{a}sum1", b"{a}sum2"];

const VALUES: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"-1",
    b"10",
    b"9223372036854775807",
    b"9223372036854775806",
    b"-9223372036854775808",
    b"-9223372036854775807",
    b"9223372036854775808",
    b"007",
    b" 1",
    b"1 ",
    b"+1",
    b"-0",
    b"3.5",
    b"-2.25",
    b"inf",
    b"nan",
    b"abc",
    b"Hello, World",
    b"a\0b\r\nc\xff",
];

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "5",
    "7",
    "10",
    "-3",
    "-10",
    "100",
    "1000",
    "9223372036854775807",
    "9223372036854775806",
    "-9223372036854775808",
    "-9223372036854775807",
    "4611686018427387904",
];

const NO_NUMBERS: &[&str] = &[
    "",
    " ",
    "abc",
    "1.5",
    "1 ",
    " 1",
    "+1",
    "01",
    "-0",
    "0x10",
    "1e3",
    "1\0",
    "\0",
    "--1",
    "-",
    "9223372036854775808",
    "-9223372036854775809",
    "99999999999999999999999",
    "\r\n",
];

/// Times at the edges of what is one, in any unit.
const EDGE_TIMES: &[&str] = &[
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775",
    "9223372036854776",
    "-9223372036854775",
    "-9223372036854776",
    "0",
    "-1",
    "-100000",
    "abc",
    "",
    "1.5",
    "01",
    "99999999999999999999",
];

/// Operands of sums that are exact in binary, so that both servers show the same digits.
const EXACT_SUMS: &[&str] = &[
    "0", "1", "-1", "0.5", "-0.25", "3.75", "1e3", "5.0e3", "1E2", "-.5", "2.", "+1", "1e0", "-0",
];
/// Operands that are not, and what is not finite.
const SUMS: &[&str] = &[
    "0.1", "-0.1", "0.2", "1.1", "3.14159", "1e-3", "2.5e-5", "-7.77",
];
const NO_SUMS: &[&str] = &[
    "", " ", "abc", " 1", "1 ", "1.2.3", "--1", "nan", "-nan", "1e5000", "-1e5000", "1e-5000",
    "1e", "e5", ".", "1\0", "inf", "-inf", "+inf", "infinity", "1,5", "0.5x",
];

const PATTERNS: &[&[u8]] = &[
    b"*",
    b"",
    b"{a}*",
    b"{a}?",
    b"*1",
    b"*[12]",
    b"*[^1]",
    b"*[1-2]",
    b"{[a-b]}*",
    b"\\{a}*",
    b"*\xff*",
    b"{a}[",
    b"{a}[1",
    b"*[2-1]",
    b"?",
    b"??*",
    b"**1",
    b"*\\",
    b"{A}*",
    b"[]*",
    b"*[\\]1]",
    b"{a}[^]*",
];

/// Makes requests of a seed.
pub(super) struct Maker {
    pub(super) prng: Prng,
    pub(super) now_ms: i64,
}

pub(super) type Args = Vec<Vec<u8>>;

pub(super) fn words(text: &str) -> Args {
    text.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

impl Maker {
    pub(super) fn new(seed: u64) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ms = now.expect("a clock after 1970").as_millis() as i64;
        Self {
            prng: Prng::new(seed),
            now_ms,
        }
    }

    pub(super) fn one<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.prng.index(texts.len())]
    }

    pub(super) fn key(&mut self) -> Vec<u8> {
        KEYS[self.prng.index(KEYS.len())].to_vec()
    }

    /// Mostly of one slot.
    pub(super) fn keys(&mut self) -> Args {
        let pool = if self.prng.chance(1, 12) {
            KEYS.len()
        } else {
            KEYS_OF_ONE_SLOT
        };
        let count = self.prng.range(1, 4);
        (0..count)
            .map(|_| KEYS[self.prng.index(pool)].to_vec())
            .collect()
    }

    pub(super) fn value(&mut self) -> Vec<u8> {
        if self.prng.chance(2, 3) {
            return VALUES[self.prng.index(VALUES.len())].to_vec();
        }
        let len = match self.prng.below(40) {
            0 => 20_000,
            1 => 1500,
            _ => self.prng.below(40),
        };
        (0..len).map(|_| self.prng.below(256) as u8).collect()
    }

    pub(super) fn number(&mut self) -> Vec<u8> {
        if self.prng.chance(1, 6) {
            self.one(NO_NUMBERS).as_bytes().to_vec()
        } else if self.prng.chance(1, 3) {
            self.prng.below(3000).to_string().into_bytes()
        } else {
            self.one(NUMBERS).as_bytes().to_vec()
        }
    }

    /// A time of this unit. One that is to come is far from now: the two servers look at their clocks
    /// at different moments.
    fn time(&mut self, unit: &str) -> Vec<u8> {
        let unit = unit.to_ascii_lowercase();
        if self.prng.chance(1, 4) {
            return self.one(EDGE_TIMES).as_bytes().to_vec();
        }
        let scale = if unit.starts_with('p') { 1 } else { 1000 };
        let ahead = self.prng.range(1_000_000, 900_000_000) as i64;
        let ms = if unit.ends_with("at") {
            self.now_ms + ahead
        } else {
            ahead
        };
        (ms / scale).to_string().into_bytes()
    }

    /// The word in another case of letters.
    pub(super) fn any_case(&mut self, word: &[u8]) -> Vec<u8> {
        match self.prng.below(3) {
            0 => word.to_ascii_lowercase(),
            1 => word.to_ascii_uppercase(),
            _ => {
                let flip = |byte: &u8, up| if up { byte.to_ascii_uppercase() } else { *byte };
                word.iter()
                    .map(|byte| flip(byte, self.prng.chance(1, 2)))
                    .collect()
            }
        }
    }

    /// A request that both servers must answer with the same bytes.
    pub(super) fn exact(&mut self) -> Request {
        loop {
            let request = self.request();
            if request.agree == Agree::Exact {
                return request;
            }
        }
    }

    /// Any request that one reply answers and that leaves the connection open.
    pub(super) fn request(&mut self) -> Request {
        let family = self.prng.below(100);
        let (mut args, mut agree) = match family {
            0..=29 => self.string(),
            30..=41 => self.counting(),
            42..=59 => self.expiry(),
            60..=72 => self.keyspace(),
            73..=86 => self.connection(),
            87..=93 => self.introspection(),
            94..=97 => self.cluster(),
            _ => self.unknown(),
        };
        // HELLO of 7.0 does what an option says before it has read all; settings are each server's own.
        let is_plain = args[0] != b"HELLO" && args[0] != b"CONFIG";
        args[0] = self.any_case(&args[0].clone());
        if is_plain && self.prng.chance(1, 40) {
            if self.prng.chance(1, 2) && args.len() > 1 {
                args.pop();
            } else {
                // No number: it could be a time that ends while the two servers are asked.
                args.push(
                    self.one(&["extra", "", "\0", "NX", "*"])
                        .as_bytes()
                        .to_vec(),
                );
            }
            // It may be another request now, right and with an answer of each server's own.
            if family >= 60 {
                agree = Agree::Kind;
            }
        }
        Request { args, agree }
    }

    pub(super) fn string(&mut self) -> (Args, Agree) {
        let key = self.key();
        let args = match self.prng.below(16) {
            0..=1 => vec![b"GET".to_vec(), key],
            2..=4 => self.set(key),
            5 => vec![b"GETDEL".to_vec(), key],
            6 => return self.getex(key),
            7 => [vec![b"MGET".to_vec()], self.keys()].concat(),
            8 => self.pairs("MSET"),
            9 => self.pairs("MSETNX"),
            10 => vec![b"APPEND".to_vec(), key, self.value()],
            11 => vec![b"STRLEN".to_vec(), key],
            12 => {
                let name = self.one(&["GETRANGE", "SUBSTR"]).as_bytes().to_vec();
                vec![name, key, self.number(), self.number()]
            }
            13 => vec![b"SETRANGE".to_vec(), key, self.number(), self.value()],
            14 => match self.prng.below(4) {
                0 => vec![b"SETNX".to_vec(), key, self.value()],
                1 => vec![b"GETSET".to_vec(), key, self.value()],
                2 => vec![b"SETEX".to_vec(), key, self.time("EX"), self.value()],
                _ => vec![b"PSETEX".to_vec(), key, self.time("PX"), self.value()],
            },
            _ => vec![b"SET".to_vec(), key, self.value()],
        };
        (args, Agree::Exact)
    }

    fn set(&mut self, key: Vec<u8>) -> Args {
        let mut args = vec![b"SET".to_vec(), key, self.value()];
        for _ in 0..self.prng.below(4) {
            self.option(
                &mut args,
                &["NX", "XX", "GET", "KEEPTTL", "EX", "PX", "EXAT", "PXAT"],
            );
        }
        args
    }

    fn getex(&mut self, key: Vec<u8>) -> (Args, Agree) {
        let mut args = vec![b"GETEX".to_vec(), key];
        for _ in 0..self.prng.below(3) {
            self.option(&mut args, &["PERSIST", "EX", "PX", "EXAT", "PXAT"]);
        }
        (args, Agree::Exact)
    }

    fn option(&mut self, args: &mut Args, options: &[&str]) {
        let wrong = ["", "FOO", "NX", "PERSIST", "KEEPTTL", "GET", "EXX", "x"];
        let option = if self.prng.chance(1, 25) {
            self.one(&wrong)
        } else {
            self.one(options)
        };
        args.push(self.any_case(option.as_bytes()));
        let takes_time = ["EX", "PX", "EXAT", "PXAT"].contains(&option);
        if takes_time && !self.prng.chance(1, 25) {
            args.push(self.time(option));
        }
    }

    fn pairs(&mut self, name: &str) -> Args {
        let mut args = vec![name.as_bytes().to_vec()];
        for key in self.keys() {
            args.extend([key, self.value()]);
        }
        args
    }

    fn counting(&mut self) -> (Args, Agree) {
        let key = self.key();
        let args = match self.prng.below(8) {
            0 => vec![b"INCR".to_vec(), key],
            1 => vec![b"DECR".to_vec(), key],
            2..=3 => vec![b"INCRBY".to_vec(), key, self.number()],
            4..=5 => vec![b"DECRBY".to_vec(), key, self.number()],
            _ => return self.sum(),
        };
        (args, Agree::Exact)
    }

    fn sum(&mut self) -> (Args, Agree) {
        let key = SUM_KEYS[self.prng.index(SUM_KEYS.len())].to_vec();
        let args = match self.prng.below(10) {
            0..=2 => {
                let operand = self.one(EXACT_SUMS).as_bytes().to_vec();
                vec![b"INCRBYFLOAT".to_vec(), key, operand]
            }
            3..=5 => vec![
                b"INCRBYFLOAT".to_vec(),
                key,
                self.one(SUMS).as_bytes().to_vec(),
            ],
            6 => vec![
                b"INCRBYFLOAT".to_vec(),
                key,
                self.one(NO_SUMS).as_bytes().to_vec(),
            ],
            7 => {
                let texts = [EXACT_SUMS, SUMS, NO_SUMS][self.prng.index(3)];
                vec![b"SET".to_vec(), key, self.one(texts).as_bytes().to_vec()]
            }
            8 => vec![b"GET".to_vec(), key],
            _ => vec![b"DEL".to_vec(), key],
        };
        (args, Agree::Sum)
    }

    pub(super) fn expiry(&mut self) -> (Args, Agree) {
        let key = self.key();
        if self.prng.chance(1, 8) {
            return (vec![b"PERSIST".to_vec(), key], Agree::Exact);
        }
        if self.prng.chance(1, 3) {
            let tellers = [
                ("TTL", 2),
                ("PTTL", 2000),
                ("EXPIRETIME", 2),
                ("PEXPIRETIME", 2000),
            ];
            let (name, distance) = tellers[self.prng.index(tellers.len())];
            return (vec![name.as_bytes().to_vec(), key], Agree::Within(distance));
        }
        let names = [
            ("EXPIRE", "EX"),
            ("PEXPIRE", "PX"),
            ("EXPIREAT", "EXAT"),
            ("PEXPIREAT", "PXAT"),
        ];
        let (name, unit) = names[self.prng.index(names.len())];
        let mut args = vec![name.as_bytes().to_vec(), key, self.time(unit)];
        for _ in 0..self.prng.below(3) {
            let option = self.one(&["NX", "XX", "GT", "LT", "GT", "LT", "KEEPTTL", ""]);
            let option = if self.prng.chance(3, 4) && option.len() != 2 {
                "XX"
            } else {
                option
            };
            args.push(self.any_case(option.as_bytes()));
        }
        (args, Agree::Exact)
    }

    fn keyspace(&mut self) -> (Args, Agree) {
        if self.prng.chance(1, 300) {
            let name = self.one(&["FLUSHALL", "FLUSHDB"]);
            let option = self.one(&["", " SYNC", " async", " foo", " sync async"]);
            return (words(&format!("{name}{option}")), Agree::Exact);
        }
        let name = self.one(&["DEL", "UNLINK", "EXISTS", "TOUCH", "TYPE", "SCAN"]);
        let args = match name {
            "TYPE" => vec![b"TYPE".to_vec(), self.key()],
            "SCAN" => self.wrong_scan(),
            _ => [words(name), self.keys()].concat(),
        };
        (args, Agree::Exact)
    }

    fn wrong_scan(&mut self) -> Args {
        words(self.one(&[
            "SCAN x",
            "SCAN 1x",
            "SCAN 99999999999999999999999",
            "SCAN 0 COUNT",
            "SCAN 0 COUNT 0",
            "SCAN 0 COUNT -1",
            "SCAN 0 COUNT x",
            "SCAN 0 COUNT 99999999999999999999",
            "SCAN 0 MATCH",
            "SCAN 0 FOO 1",
            "SCAN 0 TYPE",
            "SCAN 0 MATCH * COUNT",
        ]))
    }

    /// What a whole SCAN is to look for.
    pub(super) fn scan_options(&mut self) -> Args {
        let mut args = Vec::new();
        if self.prng.chance(2, 3) {
            args.extend([
                b"match".to_vec(),
                PATTERNS[self.prng.index(PATTERNS.len())].to_vec(),
            ]);
        }
        if self.prng.chance(1, 2) {
            args.extend([
                b"COUNT".to_vec(),
                self.prng.range(1, 30).to_string().into_bytes(),
            ]);
        }
        if self.prng.chance(1, 3) {
            let name = self.one(&["string", "STRING", "list", "hash"]);
            args.extend([b"TYPE".to_vec(), name.as_bytes().to_vec()]);
        }
        args
    }
}
