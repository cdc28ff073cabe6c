//! What was translated before. Bounded by bytes; forgets in halves what was not asked for lately.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::translator::Translated;

/// What an entry takes beside its texts, about, in bytes.
const ENTRY_BYTES: usize = 128;

/// What a translation is of.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) text: String,
    /// As it was asked for.
    pub(crate) source: Option<String>,
    pub(crate) target: String,
}

/// Two generations: what is asked for moves to the young one, and when that is full, the old one is forgotten.
pub(crate) struct Cache {
    generation_bytes_max: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Arc<Translated>>,
    young_bytes: usize,
    old: HashMap<Key, Arc<Translated>>,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { generation_bytes_max: bytes_max / 2, generations: Mutex::default() }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Translated>> {
        let mut generations = self.lock();
        if let Some(known) = generations.young.get(key) {
            return Some(known.clone());
        }
        let (key, known) = generations.old.remove_entry(key)?;
        self.keep(&mut generations, key, known.clone());
        Some(known)
    }

    pub(crate) fn insert(&self, key: Key, translated: Arc<Translated>) {
        self.keep(&mut self.lock(), key, translated);
    }

    fn keep(&self, generations: &mut Generations, key: Key, translated: Arc<Translated>) {
        let bytes = ENTRY_BYTES
            + key.text.len()
            + key.source.as_ref().map_or(0, String::len)
            + key.target.len()
            + translated.text.len();
        if bytes > self.generation_bytes_max {
            return;
        }
        if generations.young_bytes + bytes > self.generation_bytes_max {
            generations.old = std::mem::take(&mut generations.young);
            generations.young_bytes = 0;
        }
        if generations.young.insert(key, translated).is_none() {
            generations.young_bytes += bytes;
        }
    }

    /// Never held over an await.
    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key { text: format!("{number:0100}"), source: None, target: "ar".to_owned() }
    }

    fn translated(text: &str) -> Arc<Translated> {
        Arc::new(Translated { text: text.to_owned(), source: None })
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten() {
        let cache = Cache::new(20 * (ENTRY_BYTES + 103));
        for number in 0..1000 {
            cache.insert(key(number), translated("x"));
            assert!(cache.get(&key(0)).is_some(), "asked for all the time, after {number}");
            let generations = cache.lock();
            assert!(generations.young.len() + generations.old.len() <= 20);
        }
        assert!(cache.get(&key(1)).is_none());
        assert!(cache.get(&key(999)).is_some());
        let other = Key { target: "de".to_owned(), ..key(999) };
        assert!(cache.get(&other).is_none(), "another language is another text");
        cache.insert(key(2000), translated(&"x".repeat(10_000)));
        assert!(cache.get(&key(2000)).is_none() && cache.get(&key(999)).is_some(), "too large for it");
    }
}
