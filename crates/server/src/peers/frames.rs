//! Cutting a stream into frames.
//!
//! Each frame becomes a buffer of its own, exactly as long as the frame: entries are kept as slices of
//! it for a long time, and must not keep the whole read buffer alive.

use bytes::Bytes;

/// Bytes of the length in front of each frame.
const PREFIX: usize = 4;
/// Longest frame: the largest entry with room for its company.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 20;

/// What has arrived of the next frame.
#[derive(Default, Debug)]
pub(crate) struct Frames {
    partial: Vec<u8>,
}

impl Frames {
    /// Takes what one read delivered and hands out the frames that are whole, without their length.
    ///
    /// # Errors
    /// If a length is impossible; the stream is then of no more use.
    pub(crate) fn feed(
        &mut self,
        mut data: &[u8],
        mut frame: impl FnMut(Bytes),
    ) -> Result<(), String> {
        if !self.partial.is_empty() {
            let wanted = match prefix(&self.partial)? {
                Some(len) => PREFIX + len,
                None => PREFIX,
            };
            let take = data.len().min(wanted - self.partial.len());
            self.partial.extend_from_slice(&data[..take]);
            data = &data[take..];
            match prefix(&self.partial)? {
                Some(len) if self.partial.len() == PREFIX + len => {
                    let whole = Bytes::from(std::mem::take(&mut self.partial));
                    frame(whole.slice(PREFIX..));
                }
                Some(len) => self
                    .partial
                    .reserve_exact(PREFIX + len - self.partial.len()),
                None => {}
            }
            if !self.partial.is_empty() {
                return if data.is_empty() {
                    Ok(())
                } else {
                    self.feed(data, frame)
                };
            }
        }
        while let Some(len) = prefix(data)? {
            if data.len() < PREFIX + len {
                break;
            }
            frame(Bytes::copy_from_slice(&data[PREFIX..PREFIX + len]));
            data = &data[PREFIX + len..];
        }
        if !data.is_empty() {
            let len = prefix(data)?.unwrap_or(0);
            self.partial.reserve_exact((PREFIX + len).max(data.len()));
            self.partial.extend_from_slice(data);
        }
        Ok(())
    }
}

/// The length of the frame that begins here, if its prefix is whole.
fn prefix(data: &[u8]) -> Result<Option<usize>, String> {
    let Some(bytes) = data.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*bytes) as usize;
    if len == 0 || len > FRAME_BYTES_MAX {
        return Err(format!("a frame of {len} bytes"));
    }
    Ok(Some(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_base::Prng;

    #[test]
    fn any_cut_gives_the_same_frames() {
        let mut prng = Prng::new(1);
        for _ in 0..300 {
            let mut expected = Vec::new();
            let mut stream = Vec::new();
            for _ in 0..prng.range(1, 6) {
                let frame: Vec<u8> = (0..prng.range(1, 40))
                    .map(|_| prng.below(256) as u8)
                    .collect();
                stream.extend_from_slice(&(frame.len() as u32).to_le_bytes());
                stream.extend_from_slice(&frame);
                expected.push(frame);
            }
            let (mut frames, mut got, mut at) = (Frames::default(), Vec::new(), 0);
            while at < stream.len() {
                let end = (at + prng.range(1, 30) as usize).min(stream.len());
                frames
                    .feed(&stream[at..end], |frame| got.push(frame.to_vec()))
                    .expect("frames");
                at = end;
            }
            assert_eq!(got, expected);
            assert!(frames.partial.is_empty());
        }
    }

    #[test]
    fn an_impossible_length_ends_the_stream() {
        for len in [0, FRAME_BYTES_MAX as u32 + 1] {
            let mut frames = Frames::default();
            assert!(
                frames
                    .feed(&len.to_le_bytes(), |_| panic!("no frame"))
                    .is_err()
            );
        }
    }
}
