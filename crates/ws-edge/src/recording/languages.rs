//! The names that other services give languages. Inside they are primary subtags of BCP 47 in lower case.

/// Languages by their names in English, as Whisper and OpenAI's `verbose_json` write them.
#[rustfmt::skip]
const NAMES: [(&str, &str); 99] = [
    ("en", "english"), ("zh", "chinese"), ("de", "german"), ("es", "spanish"), ("ru", "russian"),
    ("ko", "korean"), ("fr", "french"), ("ja", "japanese"), ("pt", "portuguese"), ("tr", "turkish"),
    ("pl", "polish"), ("ca", "catalan"), ("nl", "dutch"), ("ar", "arabic"), ("sv", "swedish"),
    ("it", "italian"), ("id", "indonesian"), ("hi", "hindi"), ("fi", "finnish"), ("vi", "vietnamese"),
    ("he", "hebrew"), ("uk", "ukrainian"), ("el", "greek"), ("ms", "malay"), ("cs", "czech"),
    ("ro", "romanian"), ("da", "danish"), ("hu", "hungarian"), ("ta", "tamil"), ("no", "norwegian"),
    ("th", "thai"), ("ur", "urdu"), ("hr", "croatian"), ("bg", "bulgarian"), ("lt", "lithuanian"),
    ("la", "latin"), ("mi", "maori"), ("ml", "malayalam"), ("cy", "welsh"), ("sk", "slovak"),
    ("te", "telugu"), ("fa", "persian"), ("lv", "latvian"), ("bn", "bengali"), ("sr", "serbian"),
    ("az", "azerbaijani"), ("sl", "slovenian"), ("kn", "kannada"), ("et", "estonian"),
    ("mk", "macedonian"), ("br", "breton"), ("eu", "basque"), ("is", "icelandic"), ("hy", "armenian"),
    ("ne", "nepali"), ("mn", "mongolian"), ("bs", "bosnian"), ("kk", "kazakh"), ("sq", "albanian"),
    ("sw", "swahili"), ("gl", "galician"), ("mr", "marathi"), ("pa", "punjabi"), ("si", "sinhala"),
    ("km", "khmer"), ("sn", "shona"), ("yo", "yoruba"), ("so", "somali"), ("af", "afrikaans"),
    ("oc", "occitan"), ("ka", "georgian"), ("be", "belarusian"), ("tg", "tajik"), ("sd", "sindhi"),
    ("gu", "gujarati"), ("am", "amharic"), ("yi", "yiddish"), ("lo", "lao"), ("uz", "uzbek"),
    ("fo", "faroese"), ("ht", "haitian creole"), ("ps", "pashto"), ("tk", "turkmen"),
    ("nn", "nynorsk"), ("mt", "maltese"), ("sa", "sanskrit"), ("lb", "luxembourgish"),
    ("my", "myanmar"), ("bo", "tibetan"), ("tl", "tagalog"), ("mg", "malagasy"), ("as", "assamese"),
    ("tt", "tatar"), ("haw", "hawaiian"), ("ln", "lingala"), ("ha", "hausa"), ("ba", "bashkir"),
    ("jw", "javanese"), ("su", "sundanese"),
];

/// What system D's clients call languages: its server mapped so many short codes to regional ones.
#[rustfmt::skip]
pub(crate) const REGIONAL: [&str; 40] = [
    "ar-SA", "bg-BG", "bn-IN", "cs-CZ", "da-DK", "de-DE", "el-GR", "en-US", "es-ES", "et-EE", "fa-IR",
    "fi-FI", "fr-FR", "he-IL", "hi-IN", "hr-HR", "hu-HU", "id-ID", "it-IT", "ja-JP", "ko-KR", "lt-LT",
    "lv-LV", "ms-MY", "nb-NO", "nl-NL", "pl-PL", "pt-BR", "ro-RO", "ru-RU", "sk-SK", "sl-SI", "sv-SE",
    "ta-IN", "th-TH", "tr-TR", "uk-UA", "ur-PK", "vi-VN", "zh-CN",
];

/// The language that a client means by a code, with or without a region, or by an English name. `Ok(None)` when it wants
/// it detected.
///
/// # Errors
/// It cannot be the name of a language.
pub(crate) fn read(text: &str) -> Result<Option<String>, NoLanguage> {
    let text = text.trim().to_ascii_lowercase();
    if matches!(text.as_str(), "" | "auto" | "null" | "undefined" | "none" | "multi") {
        return Ok(None);
    }
    if let Some((code, _)) = NAMES.iter().find(|(_, name)| *name == text) {
        return Ok(Some((*code).to_owned()));
    }
    let primary = text.split(['-', '_']).next().unwrap_or_default();
    match primary {
        // Bokmål is what is written as Norwegian.
        "nb" => Ok(Some("no".to_owned())),
        _ if (2..=3).contains(&primary.len()) && primary.bytes().all(|byte| byte.is_ascii_lowercase()) => {
            Ok(Some(primary.to_owned()))
        }
        _ => Err(NoLanguage),
    }
}

/// What is no code of a language and no name of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoLanguage;

/// The English name of a language, in lower case, as OpenAI writes it; its code when nobody has named it.
pub(crate) fn name(code: &str) -> &str {
    NAMES.iter().find(|(known, _)| *known == code).map_or(code, |(_, name)| name)
}

/// A language as system D's server called it: `ar` is `ar-SA`. A code that it did not know stays as it is.
pub(crate) fn regional(code: &str) -> &str {
    let code = if code == "no" { "nb" } else { code };
    REGIONAL.into_iter().find(|regional| regional.split('-').next() == Some(code)).unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_go_by_many_names() {
        for (text, code) in [
            ("en", Some("en")),
            (" EN-us", Some("en")),
            ("ar-SA", Some("ar")),
            ("zh_CN", Some("zh")),
            ("nb-NO", Some("no")),
            ("Russian", Some("ru")),
            ("haw", Some("haw")),
            ("auto", None),
            ("", None),
            ("null", None),
        ] {
            assert_eq!(read(text).unwrap().as_deref(), code, "{text}");
        }
        for text in ["klingon", "e", "1a", "русский", "-en"] {
            assert_eq!(read(text), Err(NoLanguage), "{text}");
        }
        assert_eq!((name("ru"), name("tlh")), ("russian", "tlh"));
        assert_eq!((regional("ar"), regional("no"), regional("sw")), ("ar-SA", "nb-NO", "sw"));
    }
}
