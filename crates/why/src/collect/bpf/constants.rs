//! The constants of the programs in C, read from their text: what both sides name is one number.

use std::collections::HashMap;

/// Each `#define` of a number, and each name of an `enum`.
pub(in crate::collect) fn of(text: &str) -> HashMap<String, i64> {
    let mut code = String::new();
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    code.push_str(rest);
    let defined = code.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("#define ")?.split_once(' ')?;
        Some((name.to_owned(), number(value)?))
    });
    let mut found: HashMap<String, i64> = defined.collect();
    for body in code.split("enum {").skip(1).filter_map(|rest| rest.split('}').next()) {
        let mut next = 0;
        for entry in body.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (name, value) = entry.split_once('=').map_or((entry, None), |(name, value)| (name, Some(value)));
            let value = value.map_or(next, |value| number(value).unwrap());
            found.insert(name.trim().to_owned(), value);
            next = value + 1;
        }
    }
    found
}

/// `17`, `-2`, `0x80`, `0170000`, `1 << 4`
fn number(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Some((value, by)) = text.split_once("<<") {
        return Some(number(value)? << number(by)?);
    }
    match (text.strip_prefix("0x"), text.strip_prefix('0').filter(|digits| !digits.is_empty())) {
        (Some(digits), _) => i64::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) => i64::from_str_radix(digits, 8).ok(),
        (None, None) => text.parse().ok(),
    }
}

#[test]
fn numbers_as_c_writes_them() {
    let of = of("#define A -2\n#define B 0170000 /* C 1 */\nenum { D, E = 1 << 4, /* F */ G };\n#define H(x) x\n");
    let expected = [("A", -2), ("B", 0o170_000), ("D", 0), ("E", 16), ("G", 17)];
    assert_eq!(of, expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
}
