use reqwest::Url;
use settings::{Reader, Secret};

/// A server with LibreTranslate's API.
#[derive(Debug, Clone)]
pub struct LibreTranslateSettings {
    /// Where it is; `/translate` and `/languages` are below.
    pub url: Url,
    /// What it asks for, if it does.
    pub api_key: Option<Secret>,
}

/// A server with OpenAI's chat completions.
#[derive(Debug, Clone)]
pub struct OpenAiSettings {
    /// Where it is; `/chat/completions` is below.
    pub url: Url,
    /// Who pays; servers of one's own may not ask.
    pub api_key: Option<Secret>,
    /// What translates.
    pub model: String,
}

/// Who translates texts.
#[derive(Debug, Clone)]
pub enum Service {
    /// A server with LibreTranslate's API.
    LibreTranslate(LibreTranslateSettings),
    /// A server with OpenAI's chat completions.
    OpenAi(OpenAiSettings),
}

/// How texts are translated.
#[derive(Debug, Clone)]
pub struct TranslateSettings {
    /// By whom.
    pub service: Service,
    /// Questions under way at a time.
    pub concurrency: usize,
    /// How much is remembered of what was translated, in bytes; 0 for nothing.
    pub cache_bytes: usize,
}

impl TranslateSettings {
    /// Reads `LIBRETRANSLATE_URL` and `LIBRETRANSLATE_API_KEY` when `name` is `libretranslate`; `OPENAI_API_URL`,
    /// `OPENAI_API_KEY` and `OPENAI_TRANSLATE_MODEL` when it is `openai`; `TRANSLATE_CONCURRENCY` (default 4) and
    /// `TRANSLATE_CACHE_BYTES` (default 16 MiB). `None` for any other name, and after a fault that the reader has noted.
    pub fn read(reader: &mut Reader, name: &str) -> Option<Self> {
        let concurrency = reader.or("TRANSLATE_CONCURRENCY", 4_usize, "a number of texts").max(1);
        let cache_bytes = reader.or("TRANSLATE_CACHE_BYTES", 16 * 1024 * 1024, "a number of bytes");
        let service = match name {
            "libretranslate" => {
                let url = reader.required("LIBRETRANSLATE_URL", "http://HOST:PORT");
                let api_key = reader.text("LIBRETRANSLATE_API_KEY").map(Secret::from);
                let url = web(reader, "LIBRETRANSLATE_URL", url?)?;
                Service::LibreTranslate(LibreTranslateSettings { url, api_key })
            }
            "openai" => {
                let url: Option<Url> = Url::parse("https://api.openai.com/v1").ok();
                let url = reader.optional("OPENAI_API_URL", "http://HOST/v1 or https://HOST/v1").or(url);
                let api_key = reader.text("OPENAI_API_KEY").map(Secret::from);
                let model = reader.text("OPENAI_TRANSLATE_MODEL").unwrap_or_else(|| "gpt-4o-mini".to_owned());
                let url = web(reader, "OPENAI_API_URL", url?)?;
                if api_key.is_none() && url.host_str() == Some("api.openai.com") {
                    reader.problem("OPENAI_API_KEY", "required, as OpenAI is to translate");
                }
                Service::OpenAi(OpenAiSettings { url, api_key, model })
            }
            _ => return None,
        };
        Some(Self { service, concurrency, cache_bytes })
    }
}

/// An address of HTTP. Without TLS too: such servers mostly run beside us.
fn web(reader: &mut Reader, name: &str, url: Url) -> Option<Url> {
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if matches!(url.scheme(), "http" | "https") && url.has_host() && plain {
        return Some(url);
    }
    reader.problem(name, "expected an http or https URL without a query");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_settings() {
        let mut reader = settings::of([
            ("LIBRETRANSLATE_URL", "http://translate.local:5000/base/"),
            ("LIBRETRANSLATE_API_KEY", "very-secret"),
            ("OPENAI_API_URL", "http://llm.local/v1"),
        ]);
        let libre = TranslateSettings::read(&mut reader, "libretranslate").unwrap();
        assert!(!format!("{libre:?}").contains("very-secret"));
        let open = TranslateSettings::read(&mut reader, "openai").unwrap();
        let Service::OpenAi(service) = open.service else { panic!("another service") };
        assert_eq!((service.url.as_str(), service.model.as_str()), ("http://llm.local/v1", "gpt-4o-mini"));
        assert!(TranslateSettings::read(&mut reader, "none").is_none());
        assert!(reader.finish(|| Some(())).is_ok());
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        for (name, settings) in [
            ("libretranslate", vec![]),
            ("libretranslate", vec![("LIBRETRANSLATE_URL", "ftp://host")]),
            ("libretranslate", vec![("LIBRETRANSLATE_URL", "http://user:word@host")]),
            ("openai", vec![]),
            ("openai", vec![("OPENAI_API_URL", "nothing")]),
        ] {
            let mut reader = settings::of(settings);
            TranslateSettings::read(&mut reader, name);
            assert!(reader.finish(|| Some(())).is_err(), "{name}");
        }
    }
}
