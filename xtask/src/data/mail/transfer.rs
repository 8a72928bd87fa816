//! The two transfer encodings of mail. Broken input gives what can be read of it: this is mail from the wild.

/// `=3D` is a byte in hexadecimal, `=` at the end of a line joins it with the next.
pub(super) fn quoted_printable(body: &str) -> String {
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'=', [b'\n', more @ ..]) => rest = more,
            (b'=', [high, low, more @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                bytes.push(hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0));
                rest = more;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    characters(&bytes)
}

/// Four letters carry three bytes; what is not of the alphabet is skipped.
pub(super) fn base64(body: &str) -> String {
    let mut bytes = Vec::with_capacity(body.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for letter in body.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => continue,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    characters(&bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// UTF-8 if it is, else one character a byte, as Latin-1 has it.
fn characters(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(
        |_| bytes.iter().map(|&byte| char::from(byte)).collect(),
        str::to_owned,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_printable_is_decoded_and_broken_escapes_stay() {
        assert_eq!(
            quoted_printable("caf=C3=A9 =3D so=\nft 5=x =E9"),
            "café = soft 5=x é".replace("café", "cafÃ©")
        );
        assert_eq!(quoted_printable("caf=C3=A9"), "café");
    }

    #[test]
    fn base64_is_decoded_over_lines() {
        assert_eq!(base64("SGVsbG8s\nIHdvcmxkIQ==\n"), "Hello, world!");
        assert_eq!(base64(""), "");
    }
}
