use model::Spoken;

/// The same in another language (BCP 47), as far as there are translations into it; the rest stays as it was said. What is
/// translated has no words with times of their own: nobody has said them.
pub fn translated(said: Vec<Spoken>, language: &str) -> Vec<Spoken> {
    said.into_iter()
        .map(|mut spoken| {
            let segment = &mut spoken.segment;
            let known = segment.translations.iter().find(|(target, _)| target.eq_ignore_ascii_case(language));
            if let Some((target, text)) = known.map(|(target, text)| (target.clone(), text.clone())) {
                segment.text = text;
                segment.language = Some(target);
                segment.words = Vec::new();
            }
            spoken
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use model::Timestamp;

    use super::*;
    use crate::cues::tests::heard;

    #[test]
    fn what_has_no_translation_stays_as_it_was_said() {
        let at = Timestamp(1_700_000_000_000);
        let spoken = |text: &str| Spoken { segment: heard(1, "a", 0, text), started_at: at, ended_at: at };
        let mut one = spoken("Hello.");
        one.segment.translations.insert("ar-SA".to_owned(), "مرحبا.".to_owned());
        let said = translated(vec![one, spoken("Bye.")], "AR-sa");
        let texts: Vec<_> = said.iter().map(|spoken| spoken.segment.text.as_str()).collect();
        assert_eq!(texts, ["مرحبا.", "Bye."]);
        assert_eq!(said[0].segment.language.as_deref(), Some("ar-SA"));
        assert!(said[0].segment.words.is_empty() && !said[1].segment.words.is_empty());
    }
}
