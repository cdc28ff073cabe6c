/// The languages of Whisper's multilingual models, as primary subtags of BCP 47, in the order of their tokens (the
/// tokenizer of openai/whisper). `jw`, which Whisper writes for Javanese, is `jv` elsewhere.
pub const WHISPER_LANGUAGES: [&str; 99] = [
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id",
    "hi", "fi", "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg",
    "lt", "la", "mi", "ml", "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br",
    "eu", "is", "hy", "ne", "mn", "bs", "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so",
    "af", "oc", "ka", "be", "tg", "sd", "gu", "am", "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt",
    "sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln", "ha", "ba", "jw", "su",
];

/// What Whisper and OpenAI's answers call them, in the same order.
#[rustfmt::skip]
const NAMES: [&str; 99] = [
    "english", "chinese", "german", "spanish", "russian", "korean", "french", "japanese", "portuguese",
    "turkish", "polish", "catalan", "dutch", "arabic", "swedish", "italian", "indonesian", "hindi", "finnish",
    "vietnamese", "hebrew", "ukrainian", "greek", "malay", "czech", "romanian", "danish", "hungarian",
    "tamil", "norwegian", "thai", "urdu", "croatian", "bulgarian", "lithuanian", "latin", "maori",
    "malayalam", "welsh", "slovak", "telugu", "persian", "latvian", "bengali", "serbian", "azerbaijani",
    "slovenian", "kannada", "estonian", "macedonian", "breton", "basque", "icelandic", "armenian", "nepali",
    "mongolian", "bosnian", "kazakh", "albanian", "swahili", "galician", "marathi", "punjabi", "sinhala",
    "khmer", "shona", "yoruba", "somali", "afrikaans", "occitan", "georgian", "belarusian", "tajik", "sindhi",
    "gujarati", "amharic", "yiddish", "lao", "uzbek", "faroese", "haitian creole", "pashto", "turkmen",
    "nynorsk", "maltese", "sanskrit", "luxembourgish", "myanmar", "tibetan", "tagalog", "malagasy",
    "assamese", "tatar", "hawaiian", "lingala", "hausa", "bashkir", "javanese", "sundanese",
];

/// The language of an English name (`russian`) or of its own code, as the primary subtag of BCP 47 in lower case.
pub(crate) fn language_named(name: &str) -> Option<&'static str> {
    let name = name.trim().to_ascii_lowercase();
    let code = WHISPER_LANGUAGES.iter().zip(NAMES).find(|(code, known)| *known == name || **code == name)?.0;
    Some(if *code == "jw" { "jv" } else { *code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_have_names() {
        let cases = [
            ("russian", Some("ru")),
            ("Haitian Creole", Some("ht")),
            ("ar", Some("ar")),
            ("javanese", Some("jv")),
        ];
        for (name, code) in cases.into_iter().chain([("klingon", None), ("", None)]) {
            assert_eq!(language_named(name), code, "{name}");
        }
    }
}
