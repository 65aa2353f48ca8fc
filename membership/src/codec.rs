//! How values become bytes: bincode, length-prefixed frames, and a limit on everything that is read.
//!
//! The only place that knows bincode. The messages themselves stand in the `wire` module of each crate.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest frame that anybody may send, in bytes: room for a manifest at its own limit of 4 MiB and what stands
/// around it. What is larger than that travels as raw block bytes.
pub const MAX_FRAME_BYTES: usize = 5 * 1024 * 1024;

/// Bytes that are not the value they should be.
#[derive(Debug, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct CodecError(String);

impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// The bytes of a value.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Serialising into memory fails only for types that bincode cannot express, which no message of ours is.
    bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("messages are plain data")
}

/// The value of exactly these bytes. Allocates no more than [`MAX_FRAME_BYTES`], whatever the bytes claim.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<MAX_FRAME_BYTES>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(CodecError(format!("{} bytes too many", bytes.len() - used))),
        Err(error) => Err(CodecError(error.to_string())),
    }
}

/// Writes one frame: the length as four bytes, little-endian, then the value.
pub async fn write_frame<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    let body = encode(value);
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME_BYTES);
    let length = length.ok_or_else(|| CodecError(format!("a frame of {} bytes is too large", body.len())))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame).await
}

/// Reads one frame of at most `limit` bytes. `UnexpectedEof` when the stream ends before it is whole.
pub async fn read_frame<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<T> {
    let length = from.read_u32_le().await? as usize;
    if length > limit.min(MAX_FRAME_BYTES) {
        return Err(CodecError(format!("a frame of {length} bytes is over the limit of {limit}")).into());
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(decode(&body)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn frames_follow_each_other() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &(7u32, "seven".to_owned())).await.unwrap();
        write_frame(&mut bytes, &(8u32, "eight".to_owned())).await.unwrap();
        let mut from = bytes.as_slice();
        for expected in [(7, "seven"), (8, "eight")] {
            let (number, name): (u32, String) = read_frame(&mut from, 100).await.unwrap();
            assert_eq!((number, name.as_str()), expected);
        }
        let end = read_frame::<u32>(&mut from, 100).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut from: &[u8] = &[255, 255, 255, 255, 0];
        let error = read_frame::<Vec<u8>>(&mut from, 1000).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_false_length_inside_a_value_allocates_nothing() {
        let claims_exabytes = [253u8, 255, 255, 255, 255, 255, 255, 255, 15];
        assert!(decode::<Vec<u64>>(&claims_exabytes).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = decode::<Vec<(String, Option<u64>)>>(&bytes);
            let _ = decode::<crate::wire::Request>(&bytes);
            let _ = decode::<crate::wire::Reply>(&bytes);
        }
    }
}
