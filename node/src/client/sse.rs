//! Reads server-sent events, as the WHATWG's HTML standard defines them, out of a body that comes in pieces.
//!
//! Lines end with LF or CRLF; the standard's third kind, CR alone, nobody sends. `id` and `retry` serve to reconnect,
//! which no caller here does, and are skipped like unknown fields. Pure.

/// The longest event that is taken. A function that came from ten thousand members is described in less.
pub(super) const MAX_EVENT_BYTES: usize = 1 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its `event` field; `message` if it has none.
    pub(super) name: String,
    /// Its `data` lines, joined by LF.
    pub(super) data: String,
}

/// A body that is no event stream that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SseError {
    /// Past [`MAX_EVENT_BYTES`].
    #[error("an event has more than {MAX_EVENT_BYTES} bytes")]
    TooLarge,
    /// The standard knows UTF-8 alone.
    #[error("an event is not in UTF-8")]
    NotUtf8,
}

/// Takes the pieces of a body.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// What has come of the line that is not at its end.
    line: Vec<u8>,
    name: String,
    data: Option<String>,
}

impl Parser {
    /// The events that are complete with this piece. After an error the parser is of no further use.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Vec<Event>, SseError> {
        let mut events = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > MAX_EVENT_BYTES {
                return Err(SseError::TooLarge);
            }
            if self.line.ends_with(b"\n") {
                let line =
                    String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| SseError::NotUtf8)?;
                let line = line.strip_suffix('\n').unwrap_or(&line);
                events.extend(self.take_line(line.strip_suffix('\r').unwrap_or(line)));
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => return self.dispatch(),
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // A comment, which keeps the connection alive, or a field that says nothing to us.
            _ => {}
        }
        None
    }

    /// An event without data is none.
    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let name = if name.is_empty() { "message".into() } else { name };
        self.data.take().map(|data| Event { name, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<(String, String)>, SseError> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            events.extend(parser.push(piece)?.into_iter().map(|event| (event.name, event.data)));
        }
        Ok(events)
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let expected: Vec<_> = expected.iter().map(|(n, d)| ((*n).to_owned(), (*d).to_owned())).collect();
            assert_eq!(read(&[text.as_bytes()]), Ok(expected.clone()), "{text:?}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(read(&bytes), Ok(expected), "{text:?} byte by byte");
        };
        check("", &[]);
        check("event: done\ndata: {}\n\n", &[("done", "{}")]);
        check("event:done\r\ndata:{}\r\n\r\n", &[("done", "{}")]);
        check("data: a\ndata: b\n\n", &[("message", "a\nb")]);
        check("data\n\n", &[("message", "")]);
        check("data:  ü:x\n\n", &[("message", " ü:x")]);
        check(": keep alive\n\n:\n\n", &[]);
        check("event: lost\n\ndata: a\n\n", &[("message", "a")]);
        check("id: 7\nretry: 1\nother\ndata: a\n\n", &[("message", "a")]);
        check("data: a\n\nevent: b\ndata: c\n\ndata: never ended\n", &[("message", "a"), ("b", "c")]);
    }

    #[test]
    fn what_is_too_large_or_no_text_is_refused() {
        let line = format!("data: {}\n", "a".repeat(MAX_EVENT_BYTES / 2));
        assert_eq!(read(&[line.as_bytes(), b"\n"]).map(|events| events.len()), Ok(1));
        assert_eq!(read(&[line.as_bytes(), line.as_bytes()]), Err(SseError::TooLarge));
        assert_eq!(read(&[&[b'a'; MAX_EVENT_BYTES + 1]]), Err(SseError::TooLarge));
        assert_eq!(read(&[b"data: \xff\n"]), Err(SseError::NotUtf8));
    }

    proptest! {
        #[test]
        fn where_a_body_is_cut_makes_no_difference(
            body in "(data|event|:|id)?:? ?[a-z ü]{0,5}(\r?\n){0,3}data: x\n\n",
            cut in 0_usize..20,
        ) {
            let cut = cut.min(body.len());
            let (head, tail) = body.as_bytes().split_at(cut);
            prop_assert_eq!(read(&[head, tail]), read(&[body.as_bytes()]));
        }

        #[test]
        fn any_bytes_are_read_without_panic(body in any::<Vec<u8>>()) {
            let _ = read(&[&body]);
        }
    }
}
