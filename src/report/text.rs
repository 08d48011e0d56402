//! Prepares names and texts from users for the report: hidden characters become visible, and long
//! names become short.

/// The text on one line.
///
/// Line breaks and tabs become spaces. Other control characters, characters that XML forbids, and
/// characters that change the reading direction become U+FFFD.
pub(super) fn sanitize_line(text: &str) -> String {
    text.chars().map(visible_char).collect()
}

/// Replaces characters like [`sanitize_line`], but keeps line breaks and tabs. It is used for the
/// config, which is shown as the user wrote it.
pub(super) fn sanitize_block(text: &str) -> String {
    let keep = |c| matches!(c, '\n' | '\t');
    text.chars()
        .filter(|&c| c != '\r')
        .map(|c| if keep(c) { c } else { visible_char(c) })
        .collect()
}

/// The character, or a visible replacement.
fn visible_char(c: char) -> char {
    match c {
        '\n' | '\t' | '\r' | '\u{2028}' | '\u{2029}' => ' ',
        // Characters that change the reading direction could make one name look like another.
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// A sanitized name of at most `most` characters. A long name loses its middle, because names
/// usually differ at their ends.
pub(super) fn shorten(text: &str, most: usize) -> String {
    let text = sanitize_line(text);
    let count = text.chars().count();
    if count <= most || most < 3 {
        return text.chars().take(most).collect();
    }
    let head = most / 2;
    let tail = most - 1 - head;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - tail).collect();
    format!("{start}…{end}")
}

/// A file stem or an HTML anchor: 1 to 60 lower-case ASCII letters, digits and single hyphens.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() == 60 {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        "unnamed".into()
    } else {
        slug.into()
    }
}

/// The items as an English list: `a`, `a and b`, `a, b and c`.
pub(super) fn join_with_and(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_characters_become_visible() {
        assert_eq!(
            sanitize_line("a\u{0}b\u{202e}c\nd"),
            "a\u{fffd}b\u{fffd}c d"
        );
        assert_eq!(sanitize_block("a: 1\r\n\tb\u{7}"), "a: 1\n\tb\u{fffd}");
    }

    #[test]
    fn a_long_name_keeps_both_ends() {
        assert_eq!(shorten("hutchinson-probes-8", 9), "hutc…es-8");
        assert_eq!(shorten("ok", 9), "ok");
        assert_eq!(shorten("日本語の長い名前", 5), "日本…名前");
    }

    #[test]
    fn slugs_are_plain_and_never_empty() {
        assert_eq!(slug("../../Digits (EDM)<x>"), "digits-edm-x");
        assert_eq!(slug("日本"), "unnamed");
        assert!(slug(&"x-".repeat(500)).len() <= 60);
    }

    #[test]
    fn listings_read_as_english() {
        let of = |n: usize| join_with_and(&["a", "b", "c"].map(String::from)[..n]);
        assert_eq!(
            [of(0), of(1), of(2), of(3)],
            ["", "a", "a and b", "a, b and c"]
        );
    }
}
