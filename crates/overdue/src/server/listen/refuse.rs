//! Sends a peer away, politely and without waiting for it.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use tokio::net::TcpStream;

/// So much of what a peer has sent already is read, so that closing the connection is an end and no reset.
const READ_MAX: usize = 64 * 1024;

/// Writes these words once and closes the connection.
pub(super) fn refuse(stream: TcpStream, words: &[u8]) {
    let Ok(mut stream) = stream.into_std() else { return };
    // Whatever fails here: the connection ends now.
    if !words.is_empty() {
        let _ = stream.write(words);
    }
    let _ = stream.shutdown(Shutdown::Write);
    let (mut sink, mut read) = ([0; 4096], 0);
    while read < READ_MAX {
        match stream.read(&mut sink) {
            Ok(bytes @ 1..) => read += bytes,
            Ok(0) | Err(_) => break,
        }
    }
}
