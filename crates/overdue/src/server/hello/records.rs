//! The records that carry a ClientHello, joined in place.

use bytes::BytesMut;

use super::{Malformed, NotHello};

/// A whole ClientHello with its header fits into one record, so that the joined one is a record, too.
pub(super) const MESSAGE_MAX: usize = 16_384;
pub(super) const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// What a buffer may hold: the joined record, and the headers of fragments that came with the last read.
pub(super) const BUFFER_MAX: usize = RECORD_HEADER + MESSAGE_MAX + 1_024;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Joins records as they come. The buffer begins with one record, which grows: its header, then all fragments that are
/// whole. What follows is as it came.
#[derive(Default)]
pub(super) struct Joined {
    /// Bytes of fragments behind the first header.
    payload: usize,
}

impl Joined {
    /// Goes on with what has come. The message without its header, once it is whole; `None` where more is needed.
    ///
    /// Each byte is moved once at most, however small the fragments are.
    pub(super) fn advance<'a>(&mut self, buf: &'a mut BytesMut) -> Result<Option<&'a [u8]>, NotHello> {
        let begins = if self.payload == 0 { 0 } else { RECORD_HEADER + self.payload };
        let mut read = begins;
        while !self.is_whole(buf)? {
            let Some(fragment) = fragment(buf.get(read..).unwrap_or_default())? else { break };
            let (from, to) = (read + RECORD_HEADER, RECORD_HEADER + self.payload);
            if to + fragment > RECORD_HEADER + MESSAGE_MAX {
                return Err(Malformed::TooLong.into());
            }
            if from != to {
                buf.copy_within(from..from + fragment, to);
            }
            self.payload += fragment;
            read = from + fragment;
        }
        if self.payload > 0 {
            let ends = RECORD_HEADER + self.payload;
            if read > ends {
                buf.copy_within(read.., ends);
                buf.truncate(buf.len() - (read - ends));
            }
            if let Some([high, low]) = buf.get_mut(3..RECORD_HEADER) {
                [*high, *low] = u16::try_from(self.payload).unwrap_or(u16::MAX).to_be_bytes();
            }
        }
        if self.is_whole(buf)? {
            return Ok(buf.get(RECORD_HEADER + MESSAGE_HEADER..RECORD_HEADER + self.payload));
        }
        Ok(None)
    }

    /// Whether the message ends with the fragments that were joined.
    fn is_whole(&self, buf: &[u8]) -> Result<bool, NotHello> {
        let message = buf.get(RECORD_HEADER..RECORD_HEADER + self.payload).unwrap_or_default();
        let Some((kind, _)) = message.split_first() else { return Ok(false) };
        if *kind != CLIENT_HELLO {
            return Err(Malformed::NotClientHello.into());
        }
        let Some([_, a, b, c]) = message.first_chunk() else { return Ok(false) };
        let length = MESSAGE_HEADER + (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c));
        match message.len().cmp(&length) {
            _ if length > MESSAGE_MAX => Err(Malformed::TooLong.into()),
            std::cmp::Ordering::Less => Ok(false),
            std::cmp::Ordering::Equal => Ok(true),
            std::cmp::Ordering::Greater => Err(Malformed::Trailing.into()),
        }
    }
}

/// How long the fragment of the record is with which these bytes begin; `None` while it is not whole.
fn fragment(bytes: &[u8]) -> Result<Option<usize>, NotHello> {
    let Some((kind, rest)) = bytes.split_first() else { return Ok(None) };
    match *kind {
        HANDSHAKE => {}
        ALERT => return Err(Malformed::NotClientHello.into()),
        first => return Err(NotHello::NotTls { first }),
    }
    // The minor version means nothing; the major one has always been 3.
    match rest.first() {
        Some(3) => {}
        Some(_) => return Err(Malformed::RecordVersion.into()),
        None => return Ok(None),
    }
    let Some([_, _, high, low]) = rest.first_chunk() else { return Ok(None) };
    match usize::from(u16::from_be_bytes([*high, *low])) {
        0 => Err(Malformed::EmptyRecord.into()),
        length if length > MESSAGE_MAX => Err(Malformed::RecordTooLong.into()),
        length if rest.len() - 4 < length => Ok(None),
        length => Ok(Some(length)),
    }
}
