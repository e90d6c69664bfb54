//! What the fields of a head say about the body that follows, and about the connection.

/// A field as it came: a valid name, and a value without control characters.
pub type Field<'a> = httparse::Header<'a>;

/// What the fields of one head say together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// `Content-Length`, in whatever number of fields that agree.
    pub length: Option<u64>,
    /// How many fields it came in.
    pub lengths: usize,
    /// `Transfer-Encoding: chunked`, and nothing else.
    pub chunked: bool,
    /// `Connection` has the token `close`.
    pub close: bool,
    /// `Connection` has the token `keep-alive`.
    pub keep_alive: bool,
    /// `Connection` has the token `upgrade`.
    pub upgrade: bool,
    /// `Connection` names fields besides those tokens.
    pub names_others: bool,
}

impl Said {
    /// Reads all fields of a head.
    ///
    /// # Errors
    /// Words for what could be read two ways: two lengths that differ, a length that is no number, a coding other than
    /// the single `chunked`, a length beside a coding.
    pub fn of<'a>(fields: impl IntoIterator<Item = Field<'a>>) -> Result<Self, String> {
        let mut said = Self::default();
        let mut codings = 0;
        for Field { name, value } in fields {
            // By the length of the name first: most fields are none of these.
            match name.len() {
                10 if name.eq_ignore_ascii_case("connection") => said.take_connection(value),
                14 if name.eq_ignore_ascii_case("content-length") => said.take_length(value)?,
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    codings += 1;
                    if codings > 1 || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                        return Err("its Transfer-Encoding is not the single coding chunked".to_owned());
                    }
                    said.chunked = true;
                }
                _ => {}
            }
        }
        if said.chunked && said.length.is_some() {
            return Err("it sent both Content-Length and Transfer-Encoding".to_owned());
        }
        Ok(said)
    }

    fn take_connection(&mut self, value: &[u8]) {
        for token in tokens(value) {
            match token {
                _ if token.eq_ignore_ascii_case(b"close") => self.close = true,
                _ if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ if token.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                _ => self.names_others = true,
            }
        }
    }

    fn take_length(&mut self, digits: &[u8]) -> Result<(), String> {
        let length = std::str::from_utf8(digits)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse::<u64>().ok())
            .ok_or_else(|| format!("its Content-Length is no number: {:?}", digits.escape_ascii().to_string()))?;
        if self.length.is_some_and(|other| other != length) {
            return Err("it sent two different Content-Lengths".to_owned());
        }
        self.length = Some(length);
        self.lengths += 1;
        Ok(())
    }
}

/// The items of a list such as that of `Connection`, without the empty ones.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}
