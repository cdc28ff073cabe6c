//! What recognizers that learnt from subtitles write where nobody speaks.

use crate::agreement::same_word;

/// Lines that people do say, yet seldom: not to be believed where the voice is unclear.
const LINES: [&str; 40] = [
    // English.
    "you",
    "so",
    "bye",
    "thank you",
    "thanks for watching",
    "thank you for watching",
    "please subscribe",
    "thank you so much for watching",
    "see you in the next video",
    // Russian and Ukrainian.
    "продолжение следует",
    "спасибо за просмотр",
    "спасибо за внимание",
    "до новых встреч",
    "подписывайтесь на канал",
    "подпишись на канал",
    "пока",
    "держи",
    "дякую за перегляд",
    // French.
    "merci",
    "merci d'avoir regardé cette vidéo",
    "c'est la fin de la vidéo",
    "abonnez-vous",
    "à bientôt",
    // German.
    "vielen dank",
    "vielen dank fürs zuschauen",
    "bis zum nächsten mal",
    "und das war's",
    "das war's",
    // Spanish, Portuguese and Italian.
    "gracias",
    "gracias por ver el video",
    "gracias por ver",
    "suscríbete",
    "adiós",
    "suscríbete al canal",
    "obrigado",
    "grazie a tutti",
    // Arabic.
    "اشتركوا في القناة",
    "شكرا للمشاهدة",
    "شكرا",
    "موسيقى",
];

/// Nobody says these to a microphone: who made subtitles, and where.
const CREDITS: [&str; 34] = [
    "amara.org",
    "dimatorzok",
    "редактор субтитров",
    "субтитры сделал",
    "субтитры подогнал",
    "субтитры создавал",
    "субтитры делал",
    "субтитры добавил",
    "корректор а",
    "subtitles by",
    "subtitled by",
    "captions by",
    "transcription by",
    "transcribed by",
    "sous-titres réalisés",
    "sous-titrage st",
    "sous-titres par",
    "sous-titres de",
    "sous-titrage société",
    "untertitel der",
    "untertitel von",
    "untertitelung",
    "swr 20",
    "copyright wdr",
    "zdf, 20",
    "zdf für funk",
    "subtítulos por",
    "subtítulos realizados",
    "subtítulos de la comunidad",
    "legendas pela comunidade",
    "sottotitoli creati",
    "sottotitoli e revisione",
    "ترجمة نانسي",
    "napisy stworzone",
];

/// Fewest letters that are a caption of a sound, when they are capitals.
const CAPTION_LETTERS_MIN: usize = 10;

/// Whether `text` is a line that subtitles end with. People may say it too.
pub fn is_line(text: &str) -> bool {
    LINES.iter().any(|line| same_word(line, text))
}

/// Whether nobody can have said `text`: who made the subtitles, or a sound described in capitals ("ТРЕВОЖНАЯ МУЗЫКА"), in
/// brackets or between notes.
pub fn is_unsaid(text: &str) -> bool {
    let lower = text.to_lowercase();
    if CREDITS.iter().any(|credit| lower.contains(credit)) {
        return true;
    }
    let text = text.trim();
    let described = [('[', ']'), ('(', ')'), ('*', '*'), ('♪', '♪'), ('♫', '♫')]
        .into_iter()
        .any(|(opens, closes)| text.starts_with(opens) && text.ends_with(closes));
    let letters = || text.chars().filter(|letter| letter.is_alphabetic());
    let capitals = letters().count() >= CAPTION_LETTERS_MIN && letters().all(char::is_uppercase);
    described || (capitals && text.split_whitespace().nth(1).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtitles_are_told_from_speech() {
        for text in [
            "Субтитры сделал DimaTorzok",
            "Редактор субтитров А.Семкин Корректор А.Егорова",
            "ТРЕВОЖНАЯ МУЗЫКА",
            "Sous-titres réalisés par la communauté d'Amara.org",
            "Untertitel der Amara.org-Community",
            "Subtítulos por la comunidad de Amara.org",
            "ترجمة نانسي قنقر",
            "[Music]",
            "♪ la la ♪",
        ] {
            assert!(is_unsaid(text), "{text}");
        }
        for text in ["We saw the subtitles.", "NATO", "Я смотрел субтитры.", "BBC NEWS", "Ich bin hier.", ""]
        {
            assert!(!is_unsaid(text), "{text}");
        }
        for text in [
            "Thank you.",
            "Продолжение следует...",
            "¡Adiós!",
            "اشتركوا في القناة",
            "C'est la fin de la vidéo !",
        ] {
            assert!(is_line(text), "{text}");
        }
        assert!(!is_line("Thank you, Mr. Chairman.") && !is_line(""));
    }
}
