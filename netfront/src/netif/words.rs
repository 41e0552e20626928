//! Records of both rings as the words they are written in: made from fields, they stay in
//! registers.

use super::abi::{ExtraHash, ExtraInfo, RxRequest, RxResponse, TxRequest, TxResponse};

impl TxRequest {
    /// The same bytes as words.
    #[inline(always)]
    pub(super) const fn words(self) -> [u32; 3] {
        [
            self.gref,
            self.offset as u32 | (self.flags as u32) << 16,
            self.id as u32 | (self.size as u32) << 16,
        ]
    }
}

impl TxResponse {
    /// From the word that holds it.
    #[inline(always)]
    pub(super) const fn from_word(word: u32) -> Self {
        Self {
            id: word as u16,
            status: (word >> 16) as i16,
        }
    }
}

impl RxRequest {
    /// The same bytes as one word.
    #[inline(always)]
    pub(super) const fn word(self) -> u64 {
        self.id as u64 | (self.gref as u64) << 32
    }
}

impl RxResponse {
    /// From the word that holds it.
    #[inline(always)]
    pub(super) const fn from_word(word: u64) -> Self {
        Self {
            id: word as u16,
            offset: (word >> 16) as u16,
            flags: (word >> 32) as u16,
            status: (word >> 48) as i16,
        }
    }
}

impl ExtraInfo {
    /// The same bytes as words of a request to send.
    pub(super) const fn words(self) -> [u32; 2] {
        let kind = self.r#type as u32 | (self.flags as u32) << 8;
        [
            kind | (self.gso_size as u32) << 16,
            self.gso_type as u32 | (self.gso_features as u32) << 16,
        ]
    }

    /// From the word that holds it.
    pub(super) const fn from_word(word: u64) -> Self {
        Self {
            r#type: word as u8,
            flags: (word >> 8) as u8,
            gso_size: (word >> 16) as u16,
            gso_type: (word >> 32) as u8,
            pad: 0,
            gso_features: (word >> 48) as u16,
        }
    }
}

impl ExtraHash {
    /// From the word that holds it.
    pub(super) const fn from_word(word: u64) -> Self {
        Self {
            r#type: word as u8,
            flags: (word >> 8) as u8,
            hash_type: (word >> 16) as u8,
            algorithm: (word >> 24) as u8,
            value: ((word >> 32) as u32).to_le_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromBytes, IntoBytes};

    fn word<T: FromBytes>(bytes: &[u8]) -> T {
        T::read_from_bytes(bytes).unwrap()
    }

    #[test]
    fn words_are_the_same_bytes() {
        let request = TxRequest {
            gref: 0x0403_0201,
            offset: 0x0605,
            flags: 0x0807,
            id: 0x0a09,
            size: 0x0c0b,
        };
        assert_eq!(request.words().as_bytes(), request.as_bytes());
        let response = TxResponse { id: 7, status: -2 };
        assert_eq!(TxResponse::from_word(word(response.as_bytes())), response);
        let request = RxRequest {
            id: 0x0201,
            pad: 0,
            gref: 0x0807_0605,
        };
        assert_eq!(request.word().as_bytes(), request.as_bytes());
        let response = RxResponse {
            id: 255,
            offset: 0x1ff,
            flags: 3,
            status: -1,
        };
        assert_eq!(RxResponse::from_word(word(response.as_bytes())), response);
        let extra = ExtraInfo {
            r#type: 1,
            flags: 1,
            gso_size: 1448,
            gso_type: 2,
            pad: 0,
            gso_features: 0x8001,
        };
        assert_eq!(extra.words().as_bytes(), extra.as_bytes());
        assert_eq!(ExtraInfo::from_word(word(extra.as_bytes())), extra);
        let hash = ExtraHash {
            r#type: 4,
            flags: 0,
            hash_type: 1,
            algorithm: 1,
            value: [1, 2, 3, 4],
        };
        assert_eq!(ExtraHash::from_word(word(hash.as_bytes())), hash);
    }
}
