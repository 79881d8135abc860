//! Decimal numbers for INCRBYFLOAT, the same on every machine.
//!
//! Redis computes with the 80-bit floating point of one processor family. Replicas must agree to the
//! last digit, whatever they run on, so here numbers are decimal digits, and a sum is exact.
//!
//! What is promised: the sum of the two numbers as written, rounded to 17 digits after the point
//! (half to even), without trailing zeros and without an exponent. That is the text Redis gives
//! wherever 18 significant digits hold the operands and the sum; beyond that Redis's text shows the
//! error of its format (1e20 plus 10.6 gives 100000000000000000008 there) and this one does not.
//! Magnitudes are those of Redis: up to 10^4932, and nothing below 10^-4951 but zero. Hexadecimal
//! notation is not taken.

use std::cmp::Ordering;

/// Digits after the point in a result.
const FRACTION_DIGITS: i32 = 17;
/// The largest power of ten of a leading digit.
const POWER_MAX: i32 = 4931;
/// The smallest.
const POWER_MIN: i32 = -4951;
/// Longer texts are no numbers.
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;

/// A decimal number, or an infinity.
///
/// Invariants: `digits` are values 0 to 9, the most significant first, without leading zeros (zero
/// has none); the last one counts 10^`exponent`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Decimal {
    negative: bool,
    infinite: bool,
    digits: Vec<u8>,
    exponent: i32,
}

impl Decimal {
    pub(crate) const ZERO: Self = Self {
        negative: false,
        infinite: false,
        digits: Vec::new(),
        exponent: 0,
    };

    /// Reads what `strtold` reads of decimal numbers, without spaces around it.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (negative, body) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if body.eq_ignore_ascii_case(b"inf") || body.eq_ignore_ascii_case(b"infinity") {
            return Some(Self {
                negative,
                infinite: true,
                ..Self::ZERO
            });
        }
        let mantissa_len = body
            .iter()
            .position(|byte| byte.eq_ignore_ascii_case(&b'e'))
            .unwrap_or(body.len());
        let power = match &body[mantissa_len..] {
            [] => 0,
            [_, power @ ..] => parse_power(power)?,
        };
        let mut digits = Vec::with_capacity(mantissa_len);
        let mut fraction = None;
        for &byte in &body[..mantissa_len] {
            match byte {
                b'0'..=b'9' => {
                    digits.push(byte - b'0');
                    fraction = fraction.map(|count| count + 1);
                }
                b'.' if fraction.is_none() => fraction = Some(0),
                _ => return None,
            }
        }
        if digits.is_empty() {
            return None;
        }
        let number = Self {
            negative,
            infinite: false,
            digits,
            exponent: power - fraction.unwrap_or(0),
        }
        .trimmed();
        let in_range =
            number.digits.is_empty() || (POWER_MIN..=POWER_MAX).contains(&number.leading_power());
        in_range.then_some(number)
    }

    /// The sum; `None` if it is no number, or too large for one.
    pub(crate) fn plus(&self, other: &Self) -> Option<Self> {
        if self.infinite || other.infinite {
            return None;
        }
        let exponent = self.exponent.min(other.exponent);
        let (mine, theirs) = (self.aligned(exponent), other.aligned(exponent));
        let len = mine.len().max(theirs.len()) + 1;
        let (mine, theirs) = (padded(&mine, len), padded(&theirs, len));
        let (negative, digits) = if self.negative == other.negative {
            (self.negative, add(&mine, &theirs))
        } else if mine.cmp(&theirs) == Ordering::Less {
            (other.negative, subtract(&theirs, &mine))
        } else {
            (self.negative, subtract(&mine, &theirs))
        };
        let sum = Self {
            negative,
            infinite: false,
            digits,
            exponent,
        }
        .trimmed();
        (sum.digits.is_empty() || sum.leading_power() <= POWER_MAX).then_some(sum)
    }

    /// The text, rounded to 17 digits after the point.
    pub(crate) fn to_text(&self) -> Vec<u8> {
        let rounded = self.rounded();
        let mut text = Vec::new();
        if rounded.digits.is_empty() {
            text.push(b'0');
            return text;
        }
        if rounded.negative {
            text.push(b'-');
        }
        let digits = rounded.aligned(rounded.exponent.min(0));
        let fraction = rounded.exponent.min(0).unsigned_abs() as usize;
        let digits = padded(&digits, digits.len().max(fraction + 1));
        let (whole, fraction) = digits.split_at(digits.len() - fraction);
        text.extend(whole.iter().map(|digit| digit + b'0'));
        if !fraction.is_empty() {
            text.push(b'.');
            text.extend(fraction.iter().map(|digit| digit + b'0'));
        }
        text
    }

    fn rounded(&self) -> Self {
        let excess = -FRACTION_DIGITS - self.exponent;
        if excess <= 0 {
            return self.clone();
        }
        let excess = excess as usize;
        let digits = padded(&self.digits, self.digits.len().max(excess + 1));
        let (kept, cut) = digits.split_at(digits.len() - excess);
        let is_odd = kept.last().is_some_and(|digit| digit % 2 == 1);
        let up = match cut[0].cmp(&5) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => is_odd || cut[1..].iter().any(|&digit| digit != 0),
        };
        let kept = padded(kept, kept.len() + 1);
        let one = padded(&[u8::from(up)], kept.len());
        Self {
            digits: add(&kept, &one),
            exponent: -FRACTION_DIGITS,
            ..*self
        }
        .trimmed()
    }

    /// Without zeros on either side, so that equal numbers are equal.
    fn trimmed(mut self) -> Self {
        let leading = self.digits.iter().take_while(|&&digit| digit == 0).count();
        self.digits.drain(..leading);
        while self.digits.last() == Some(&0) {
            self.digits.pop();
            self.exponent += 1;
        }
        if self.digits.is_empty() {
            self.exponent = 0;
            self.negative = false;
        }
        self
    }

    fn leading_power(&self) -> i32 {
        self.exponent + self.digits.len() as i32 - 1
    }

    /// The digits down to a power of ten that is not above the last one's.
    fn aligned(&self, exponent: i32) -> Vec<u8> {
        let mut digits = self.digits.clone();
        if !digits.is_empty() {
            digits.resize(digits.len() + (self.exponent - exponent) as usize, 0);
        }
        digits
    }
}

/// The digits of an exponent, limited where it is out of range anyway.
fn parse_power(text: &[u8]) -> Option<i32> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let power = digits.iter().fold(0, |power: i32, digit| {
        (power * 10 + i32::from(digit - b'0')).min(100_000)
    });
    Some(if negative { -power } else { power })
}

fn padded(digits: &[u8], len: usize) -> Vec<u8> {
    let mut padded = vec![0; len - digits.len()];
    padded.extend_from_slice(digits);
    padded
}

/// Both of one length; the first digit of each is zero.
fn add(left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut sum = left.to_vec();
    let mut carry = 0;
    for (digit, other) in sum.iter_mut().zip(right).rev() {
        let value = *digit + other + carry;
        *digit = value % 10;
        carry = value / 10;
    }
    sum
}

/// Both of one length; the left is not the smaller one.
fn subtract(left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut difference = left.to_vec();
    let mut borrow = 0;
    for (digit, other) in difference.iter_mut().zip(right).rev() {
        let taken = other + borrow;
        borrow = u8::from(*digit < taken);
        *digit = *digit + 10 * borrow - taken;
    }
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(left: &str, right: &str) -> Option<String> {
        let left = Decimal::parse(left.as_bytes()).expect("a number");
        let right = Decimal::parse(right.as_bytes()).expect("a number");
        let text = left.plus(&right)?.to_text();
        Some(String::from_utf8(text).expect("digits"))
    }

    #[test]
    fn sums() {
        for (left, right, expected) in [
            ("10.5", "0.1", "10.6"),
            ("0.1", "0.2", "0.3"),
            ("5.0e3", "200", "5200"),
            ("1", "-1", "0"),
            ("-0", "0", "0"),
            (".5", "1.", "1.5"),
            ("1.5", "-3", "-1.5"),
            ("-1.5", "3", "1.5"),
            ("99.99", ".01", "100"),
            ("1e20", "10.6", "100000000000000000010.6"),
            ("3", "1e-17", "3.00000000000000001"),
            ("3", "1e-18", "3"),
            ("0", "0.000000000000000005", "0"),
            ("0", "0.000000000000000015", "0.00000000000000002"),
            ("0", "0.0000000000000000051", "0.00000000000000001"),
            ("0", "-1e-4000", "0"),
            ("0.99999999999999999", "0.000000000000000005", "1"),
            ("1E+2", "0", "100"),
        ] {
            assert_eq!(
                sum(left, right).as_deref(),
                Some(expected),
                "{left} + {right}"
            );
            assert_eq!(
                sum(right, left).as_deref(),
                Some(expected),
                "{right} + {left}"
            );
        }
        assert_eq!(sum("9e4931", "1e4931"), None, "too large");
        assert_eq!(sum("inf", "1"), None);
    }

    #[test]
    fn what_is_no_number() {
        for bad in [
            "",
            " 1",
            "1 ",
            "+",
            "-",
            ".",
            "e5",
            "1e",
            "1e+",
            "1.2.3",
            "--1",
            "0x10",
            "nan",
            "1e4933",
            "1e-5000",
            "1_0",
            "1e99999999999999999999",
        ] {
            assert_eq!(Decimal::parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert!(
            Decimal::parse(b"0e99999").is_some(),
            "zero has no magnitude"
        );
        assert!(Decimal::parse(b"-Infinity").is_some_and(|number| number.infinite));
    }
}
