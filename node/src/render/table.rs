//! Lays text out in columns, by the width that it has on a terminal. Pure.

use unicode_width::UnicodeWidthStr;

use super::{Paint, Tone};

/// Between columns.
const GAP: &str = "  ";

/// The text of one field, and its tone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// `text` in this tone. Control characters are replaced, as in [`printable`].
    pub fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: printable(text.as_ref()), tone }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows of cells under headings.
#[derive(Debug, Clone, Default)]
pub struct Table {
    headings: Option<Vec<Cell>>,
    to_the_right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// No rows yet. A heading that begins with `>` has its column set to the right, which suits numbers.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        let plain = headings.map(|heading| heading.strip_prefix('>').unwrap_or(heading));
        Self {
            headings: Some(plain.map(|heading| Cell::new(heading, Tone::Strong)).into()),
            to_the_right: headings.map(|heading| heading.starts_with('>')).into(),
            rows: Vec::new(),
        }
    }

    /// No rows yet, no headings, and this many columns, all set to the left.
    pub fn bare(columns: usize) -> Self {
        Self { headings: None, to_the_right: vec![false; columns], rows: Vec::new() }
    }

    /// Adds a row. Cells past the last column are dropped, missing ones stay empty.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) -> &mut Self {
        let mut row = Vec::from(cells);
        row.resize(self.to_the_right.len(), Cell::default());
        self.rows.push(row);
        self
    }

    /// The table as lines, each with its end and without spaces before it.
    pub fn render(&self, paint: Paint) -> String {
        let lines = || self.headings.iter().chain(&self.rows);
        let columns = 0..self.to_the_right.len();
        let width = |column: usize| lines().map(|line| line[column].text.width()).max().unwrap_or(0);
        let widths: Vec<usize> = columns.map(width).collect();
        let mut text = String::new();
        for line in lines() {
            let mut owed = String::new();
            for (column, cell) in line.iter().enumerate() {
                let space = " ".repeat(widths[column] - cell.text.width());
                let (before, after) =
                    if self.to_the_right[column] { (space, String::new()) } else { (String::new(), space) };
                owed.push_str(&before);
                if !cell.text.is_empty() {
                    text.push_str(&owed);
                    text.push_str(&paint.apply(&cell.text, cell.tone));
                    owed.clear();
                }
                owed.push_str(&after);
                owed.push_str(GAP);
            }
            text.push('\n');
        }
        text
    }
}

/// `text` with control characters replaced: what came over a network must not steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_on_a_terminal() {
        let mut table = Table::new(["NODE", ">TIME", "PARENT"]);
        table.row(["vm-1".into(), "1.24 s".into(), "-".into()]);
        table.row(["日本語".into(), "7 ms".into(), "vm-1".into()]);
        table.row(["é".into(), "".into(), "".into()]);
        table.row(["short".into()]);
        let expected = "\
NODE      TIME  PARENT
vm-1    1.24 s  -
日本語    7 ms  vm-1
é
short
";
        assert_eq!(table.render(Paint::Plain), expected);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(["A", ">B"]);
        table.row([Cell::new("x", Tone::Good), Cell::new("y", Tone::Plain)]);
        table.row(["".into(), Cell::new("long", Tone::Bad)]);
        let expected = "\
\x1b[1mA\x1b[0m     \x1b[1mB\x1b[0m
\x1b[32mx\x1b[0m     y
   \x1b[31mlong\x1b[0m
";
        assert_eq!(table.render(Paint::Coloured), expected);
    }

    #[test]
    fn text_from_elsewhere_does_not_steer_the_terminal() {
        let mut table = Table::bare(1);
        table.row(["a\x1b[2J\r\n\u{9b}b".into()]);
        assert_eq!(table.render(Paint::Plain), "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}b\n");
        assert_eq!(Table::new(["A"]).render(Paint::Plain), "A\n");
    }
}
