//! Tags of languages (BCP 47), as far as translators need them.

/// Longest tag, in bytes (RFC 5646 section 4.4.1 recommends room for 35).
const TAG_BYTES_MAX: usize = 35;

/// Whether it can be the tag of a language: nothing in it can be more than that to whoever reads it.
pub(crate) fn is_tag(tag: &str) -> bool {
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// The primary subtag in lower case: `en` of `en-US`. Nothing of `auto` and of an empty tag.
pub fn primary(tag: &str) -> Option<String> {
    let primary = tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    (!primary.is_empty() && primary != "auto").then_some(primary)
}

/// The code of a language among those that a service knows: the whole tag, or else its primary subtag.
pub(crate) fn known<'a>(codes: impl Iterator<Item = &'a str> + Clone, tag: &str) -> Option<&'a str> {
    let same = |code: &&str| code.eq_ignore_ascii_case(tag);
    let primary = primary(tag)?;
    codes.clone().find(same).or_else(|| codes.clone().find(|code| **code == *primary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_whole_or_by_its_beginning() {
        assert_eq!(primary("AR_sa").as_deref(), Some("ar"));
        assert_eq!((primary("auto"), primary("")), (None, None));
        let codes = ["en", "zh", "zh-Hant", "pt-BR"];
        for (tag, code) in [
            ("en-GB", Some("en")),
            ("zh-hant", Some("zh-Hant")),
            ("zh-Hans", Some("zh")),
            ("pt", None),
            ("auto", None),
        ] {
            assert_eq!(known(codes.into_iter(), tag), code, "{tag}");
        }
    }
}
