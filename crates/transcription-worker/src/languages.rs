//! Which engine hears which language.

use model::EngineName;

/// What stands for every language that has no engine of its own.
const ANY: &str = "*";

/// The language that Moonshine writes.
const ENGLISH: &str = "en";

/// What a source says to have its language detected.
const AUTO: &str = "auto";

/// The table of `LANGUAGE_ENGINES`, and the language of sources that do not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Languages {
    /// Primary subtags of BCP 47 in lower case, or [`ANY`].
    table: Vec<(String, EngineName)>,
    /// `None` to have it detected.
    default: Option<String>,
}

/// What nobody serves. The text is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unserved {
    #[error("language {language} is not served; choose one of: auto, {served}")]
    Language { language: String, served: String },
    #[error("no engine here translates speech to English")]
    Translation,
}

impl Languages {
    /// Reads `en=moonshine,ru=whisper,*=gladia`.
    ///
    /// # Errors
    /// The entry that is none, or that names a language which its engine does not know.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>, default: &str) -> Result<Self, &'static str> {
        let mut table = Vec::new();
        for entry in entries {
            let (language, engine) = entry.split_once('=').ok_or("expected LANGUAGE=ENGINE")?;
            let language = language.trim().to_ascii_lowercase();
            let engine = EngineName::from_label(engine.trim()).ok_or("expected a known engine")?;
            let known = match engine {
                EngineName::Moonshine => language == ENGLISH,
                EngineName::Whisper => language == ANY || speech::WHISPER_LANGUAGES.contains(&&*language),
                EngineName::Gladia | EngineName::OpenAi => !language.is_empty(),
            };
            if !known {
                return Err("an engine does not know its language");
            }
            table.push((language, engine));
        }
        let languages = Self { table, default: None };
        let default = languages.wanted(Some(default));
        if default.as_deref().is_some_and(|default| languages.engine(default).is_err()) {
            return Err("no engine serves LANGUAGE");
        }
        Ok(Self { default, ..languages })
    }

    /// The language that a source asks for, as its primary subtag; `None` to have it detected. Whoever asks for none gets
    /// the default.
    pub(crate) fn wanted(&self, asked: Option<&str>) -> Option<String> {
        let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return self.default.clone() };
        let primary = asked.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
        (primary != AUTO).then_some(primary)
    }

    /// The engine that hears a language.
    pub(crate) fn engine(&self, language: &str) -> Result<EngineName, Unserved> {
        let named = |name: &str| self.table.iter().find(|(language, _)| language == name);
        let any = || named(ANY).filter(|(_, engine)| knows(*engine, language));
        let (_, engine) = named(language).or_else(any).ok_or_else(|| self.unserved(language))?;
        Ok(*engine)
    }

    /// Whether an engine hears any language at all.
    pub(crate) fn uses(&self, engine: EngineName) -> bool {
        self.table.iter().any(|(_, used)| *used == engine)
    }

    fn unserved(&self, language: &str) -> Unserved {
        let mut served: Vec<&str> = Vec::new();
        for (language, engine) in &self.table {
            match (language.as_str(), engine) {
                (ANY, EngineName::Whisper) => served.extend(speech::WHISPER_LANGUAGES),
                (ANY, _) => served.push("any other"),
                (language, _) => served.push(language),
            }
        }
        served.sort_unstable();
        served.dedup();
        Unserved::Language { language: language.to_owned(), served: served.join(", ") }
    }
}

fn knows(engine: EngineName, language: &str) -> bool {
    match engine {
        EngineName::Moonshine => language == ENGLISH,
        EngineName::Whisper => speech::WHISPER_LANGUAGES.contains(&language),
        EngineName::Gladia | EngineName::OpenAi => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn languages(table: &str, default: &str) -> Result<Languages, &'static str> {
        Languages::new(table.split(','), default)
    }

    #[test]
    fn each_language_has_the_engine_of_the_table() {
        let languages = languages("en=moonshine, ru=openai, *=whisper", "en").unwrap();
        let engine = |asked: &str| languages.engine(&languages.wanted(Some(asked)).unwrap());
        assert_eq!(engine("en-US"), Ok(EngineName::Moonshine));
        assert_eq!(engine("RU"), Ok(EngineName::OpenAi));
        assert_eq!(engine("ar_SA"), Ok(EngineName::Whisper));
        assert!(
            engine("tlh")
                .unwrap_err()
                .to_string()
                .starts_with("language tlh is not served; choose one of: auto, ")
        );
    }

    #[test]
    fn whoever_asks_for_none_gets_the_default() {
        let english = languages("en=moonshine", "en").unwrap();
        assert_eq!(english.wanted(None).as_deref(), Some("en"));
        assert_eq!(english.wanted(Some("auto")), None);
        assert_eq!(
            english.engine("de").unwrap_err().to_string(),
            "language de is not served; choose one of: auto, en"
        );
        assert_eq!(languages("en=moonshine,*=whisper", "auto").unwrap().wanted(None), None);
    }

    #[test]
    fn a_table_that_cannot_be_served_is_refused() {
        for (table, default) in [
            ("en", "en"),
            ("de=moonshine", "de"),
            ("en=nobody", "en"),
            ("en=moonshine", "ru"),
            ("tlh=whisper", "auto"),
        ] {
            assert!(languages(table, default).is_err(), "{table} {default}");
        }
    }
}
