//! Numbers as text, the way Redis writes them.
//!
//! A double is written with the fewest digits that read back as the same double. Those digits are
//! unique, so every replica writes the same text.

/// Appends the decimal text of an integer.
#[inline]
pub fn put_integer(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    put_unsigned(out, value.unsigned_abs());
}

/// Appends the decimal text of a length or count.
#[inline]
pub fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    while value > 0 {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

/// The integer this text is, in the one form that [`put_integer`] writes: no plus sign, no leading
/// zeros, no spaces, no `-0`.
#[must_use]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    let mut value = 0i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(digit - b'0');
        // Downwards, since the lowest number has no positive twin.
        value = value.checked_mul(10)?.checked_sub(digit)?;
    }
    if negative {
        Some(value)
    } else {
        value.checked_neg()
    }
}

/// Appends a double: `inf`, `-inf`, `nan`, whole numbers below 2^62 without an exponent, everything
/// else with the fewest digits, in plain notation where that is short.
pub fn put_double(out: &mut Vec<u8>, value: f64) {
    const WHOLE_MAX: f64 = (i64::MAX / 2) as f64;
    if value.is_nan() {
        out.extend_from_slice(b"nan");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"inf" } else { b"-inf" });
    } else if value == 0.0 {
        out.extend_from_slice(if value.is_sign_negative() {
            b"-0"
        } else {
            b"0"
        });
    } else if value.abs() <= WHOLE_MAX && value == value.trunc() {
        put_integer(out, value as i64);
    } else {
        put_shortest(out, value);
    }
}

fn put_shortest(out: &mut Vec<u8>, value: f64) {
    // `{:e}` gives the shortest digits and the power of ten of the first one: 1.25e-3.
    let text = format!("{:e}", value.abs());
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    let count = digits.len() as i32;
    // The power of ten of the last digit.
    let last = power - (count - 1);
    if value < 0.0 {
        out.push(b'-');
    }
    if last >= 0 && power < count + 7 {
        out.extend_from_slice(&digits);
        out.resize(out.len() + last as usize, b'0');
    } else if last < 0 && (last > -7 || power.abs() < 4) {
        if power < 0 {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + (-power - 1) as usize, b'0');
            out.extend_from_slice(&digits);
        } else {
            let (whole, fraction) = digits.split_at((power + 1) as usize);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    } else {
        out.push(digits[0]);
        if count > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.push(b'e');
        out.push(if power < 0 { b'-' } else { b'+' });
        put_unsigned(out, u64::from(power.unsigned_abs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(value: f64) -> String {
        let mut out = Vec::new();
        put_double(&mut out, value);
        String::from_utf8(out).expect("digits")
    }

    #[test]
    fn integers_come_back() {
        for value in [
            0,
            1,
            9,
            10,
            -1,
            -10,
            1234567890,
            i64::MAX,
            i64::MIN,
            i64::MIN + 1,
        ] {
            let mut out = Vec::new();
            put_integer(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
            assert_eq!(parse_integer(&out), Some(value));
        }
    }

    #[test]
    fn an_integer_has_one_text() {
        let refused = [
            "",
            "-",
            "-0",
            "00",
            "01",
            "-01",
            "+1",
            " 1",
            "1 ",
            "1a",
            "0x1",
            "1.0",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
        ];
        for text in refused {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn doubles_are_short_and_plain_where_that_is_short() {
        let expected = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-3.0, "-3"),
            (3.1, "3.1"),
            (0.1, "0.1"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e15, "1000000000000000"),
            (1e19, "1e+19"),
            (4.6e18, "4600000000000000000"),
            (1.5e20, "1.5e+20"),
            (123456.75, "123456.75"),
            (0.001, "0.001"),
            (0.000001, "0.000001"),
            (1e-7, "1e-7"),
            (1.25e-10, "1.25e-10"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (-1.5e-7, "-1.5e-7"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for (value, text) in expected {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn doubles_read_back_as_themselves() {
        let mut prng = kvorum_base::Prng::new(11);
        for _ in 0..20_000 {
            let value = f64::from_bits(prng.next_u64());
            if value.is_finite() {
                let text = double(value);
                assert_eq!(
                    text.parse::<f64>().map(f64::to_bits),
                    Ok(value.to_bits()),
                    "{text}"
                );
            }
        }
    }
}
