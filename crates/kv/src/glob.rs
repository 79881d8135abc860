//! Patterns as KEYS, SCAN and CONFIG GET take them: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a
//! character that means itself.
//!
//! A star remembers where it stands and takes one byte more whenever what follows does not match:
//! no recursion, and no more than the product of the lengths, whatever the pattern.

/// Whether a pattern matches a whole text, byte by byte.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    run(pattern, text, false)
}

/// The same without regard to the case of ASCII letters.
#[must_use]
pub fn matches_ignoring_case(pattern: &[u8], text: &[u8]) -> bool {
    run(pattern, text, true)
}

fn run(pattern: &[u8], text: &[u8], no_case: bool) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, read));
            continue;
        }
        let step = text
            .get(read)
            .and_then(|&byte| one(&pattern[at..], byte, no_case));
        if let Some(len) = step {
            at += len;
            read += 1;
            continue;
        }
        if at == pattern.len() && read == text.len() {
            return true;
        }
        // The last star takes one byte more; earlier ones need not move, since it can take over.
        match &mut star {
            Some((after, taken)) if *taken < text.len() => {
                *taken += 1;
                (at, read) = (*after, *taken);
            }
            _ => return false,
        }
    }
}

/// How long the pattern's first element is, if it is one that matches this byte.
fn one(pattern: &[u8], byte: u8, no_case: bool) -> Option<usize> {
    let fold = |byte: u8| {
        if no_case {
            byte.to_ascii_lowercase()
        } else {
            byte
        }
    };
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ..] => class(pattern, fold(byte), fold),
        [b'\\', literal, ..] => (fold(*literal) == fold(byte)).then_some(2),
        [literal, ..] => (fold(*literal) == fold(byte)).then_some(1),
    }
}

/// The same for a class; one that is not closed ends with the pattern.
fn class(pattern: &[u8], byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = if negated { 2 } else { 1 };
    let mut found = false;
    loop {
        match &pattern[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= fold(*literal) == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                let (low, high) = (fold(*low), fold(*high));
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= fold(*literal) == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?", "a", true),
            ("?", "", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]t", "hbt", true),
            ("h[c-a]t", "hbt", true),
            ("h[a-c]t", "hdt", false),
            ("[a-]", "^", true),
            ("[a-]", "-", false),
            ("[a\\]b]", "]", true),
            ("[]", "a", false),
            ("[abc", "b", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("**a**", "bab", true),
            ("A", "a", false),
        ] {
            let given = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(given, expected, "{pattern:?} on {text:?}");
        }
        assert!(matches_ignoring_case(b"MAX[M-N]*", b"maxmemory"));
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = b"a*".repeat(60);
        let text = [&b"a".repeat(5000)[..], b"b"].concat();
        assert!(!matches(&[&pattern[..], b"c"].concat(), &text));
    }
}
