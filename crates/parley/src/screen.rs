use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use console::{Term, measure_text_width, style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Open utterances shown at once. More people than that do not speak at once for long.
const OPEN_MAX: usize = 6;

/// Columns where the terminal does not tell.
const COLUMNS_DEFAULT: usize = 80;

/// What a person sees: finished lines on standard output, open utterances rewritten in place below them when that is
/// a terminal, and a progress bar and remarks on standard error.
pub struct Screen {
    area: MultiProgress,
    rewrites: bool,
    open: Vec<(String, ProgressBar)>,
    bar: Option<ProgressBar>,
}

impl Screen {
    /// Takes over the terminal, if there is one. `rewrites` off: nothing but finished lines.
    pub fn new(rewrites: bool) -> Self {
        let rewrites = rewrites && io::stdout().is_terminal();
        // One area must draw everything that moves, or two would fight over the last line.
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else if rewrites {
            ProgressDrawTarget::stdout()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { area: MultiProgress::with_draw_target(target), rewrites, open: Vec::new(), bar: None }
    }

    /// Shows a progress bar of `length` steps, or one without an end, when standard error is a terminal.
    pub fn show_bar(&mut self, length: Option<u64>) {
        if !io::stderr().is_terminal() {
            return;
        }
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), "{bar:30} {msg}"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        let bar = self.area.add(bar);
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
    }

    /// Moves the bar.
    pub fn progress(&self, position: u64, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(message);
        }
    }

    /// Takes the bar away.
    pub fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Shows or rewrites an open utterance. `stable` leading characters of `text` will hardly change.
    pub fn partial(&mut self, utterance: &str, who: &str, text: &str, stable: usize) {
        if !self.rewrites {
            return;
        }
        if text.trim().is_empty() {
            self.close(utterance);
            return;
        }
        if !self.open.iter().any(|(open, _)| open == utterance) {
            if self.open.len() >= OPEN_MAX {
                // The oldest has probably lost its final.
                let (_, oldest) = self.open.remove(0);
                self.area.remove(&oldest);
            }
            let line = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                line.set_style(style);
            }
            let line = match &self.bar {
                Some(bar) => self.area.insert_before(bar, line),
                None => self.area.add(line),
            };
            self.open.push((utterance.to_owned(), line));
        }
        if let Some((_, line)) = self.open.iter().find(|(open, _)| open == utterance) {
            let columns =
                Term::stdout().size_checked().map_or(COLUMNS_DEFAULT, |(_, columns)| usize::from(columns));
            let prefix = if who.is_empty() { String::new() } else { format!("{}: ", printable(who)) };
            let prefix = if measure_text_width(&prefix) * 2 > columns { String::new() } else { prefix };
            let room = columns.saturating_sub(measure_text_width(&prefix) + 1);
            let (firm, loose) = tail(&printable(text), stable, room);
            line.set_message(format!("{prefix}{firm}{}", style(loose).dim()));
        }
    }

    /// Takes an open utterance away.
    pub fn close(&mut self, utterance: &str) {
        if let Some(position) = self.open.iter().position(|(open, _)| open == utterance) {
            let (_, line) = self.open.remove(position);
            self.area.remove(&line);
        }
    }

    /// Whether utterances are shown that are not finished.
    pub fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes every open utterance away.
    pub fn close_all(&mut self) {
        for (_, line) in self.open.drain(..) {
            self.area.remove(&line);
        }
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub fn line(&self, text: &str) -> io::Result<()> {
        self.area.suspend(|| writeln!(io::stdout(), "{text}"))
    }

    /// Makes a remark on standard error.
    pub fn remark(&self, text: &str) {
        // When standard error is gone there is nobody to tell.
        self.area.suspend(|| drop(writeln!(io::stderr(), "parley: {text}")));
    }
}

/// Text that cannot steer a terminal: control characters become spaces.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The end of `text` that fits into `columns`, parted where its first `stable` characters end.
fn tail(text: &str, stable: usize, columns: usize) -> (String, String) {
    let characters: Vec<char> = text.trim_end().chars().collect();
    let width = |c: &char| measure_text_width(c.encode_utf8(&mut [0; 4]));
    let mut left = columns;
    let mut from = characters.len();
    for c in characters.iter().rev() {
        let Some(rest) = left.checked_sub(width(c)) else { break };
        left = rest;
        from -= 1;
    }
    let mut firm = String::new();
    if from > 0 {
        // Room for the mark that something precedes.
        let mut freed = left;
        while freed == 0 && from < characters.len() {
            freed += characters.get(from).map_or(1, width);
            from += 1;
        }
        if columns > 0 {
            firm.push('…');
        }
    }
    let loose_from = stable.clamp(from, characters.len().max(from));
    firm.extend(characters.get(from..loose_from).unwrap_or_default());
    (firm, characters.get(loose_from..).unwrap_or_default().iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_caption_stays_visible() {
        for (text, stable, columns, firm, loose) in [
            ("the best of times", 8, 40, "the best", " of times"),
            ("the best of times", 99, 40, "the best of times", ""),
            ("the best of times", 8, 17, "the best", " of times"),
            ("the best of times", 8, 12, "…st", " of times"),
            ("the best of times", 2, 6, "…", "times"),
            ("the best", 3, 1, "…", ""),
            ("the best", 3, 0, "", ""),
            ("", 0, 10, "", ""),
            ("日本語の字幕", 3, 7, "…", "の字幕"),
            ("日本語の字幕", 4, 12, "日本語の", "字幕"),
        ] {
            assert_eq!(
                tail(text, stable, columns),
                (firm.to_owned(), loose.to_owned()),
                "{text} in {columns}"
            );
        }
    }

    #[test]
    fn captions_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a [2Jb  c");
    }
}
