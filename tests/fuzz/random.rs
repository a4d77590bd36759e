//! Seeded numbers, and what they do to bytes.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True once in so many.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    /// Mostly short, seldom long.
    pub fn length(&mut self, most: usize) -> usize {
        let bound = match self.below(32) {
            0..=3 => 2,
            4..=19 => 16,
            20..=30 => 200,
            _ => most,
        };
        self.below(bound.min(most) + 1)
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let step = self.next() as u8 | 1;
        let mut byte = self.next() as u8;
        let mut bytes = Vec::with_capacity(count);
        for _ in 0..count {
            byte = byte.wrapping_mul(step).wrapping_add(13);
            bytes.push(byte);
        }
        bytes
    }

    /// Numbers at which something often goes wrong.
    pub fn word(&mut self) -> u32 {
        const EDGES: [u32; 12] = [
            0,
            1,
            2,
            7,
            255,
            0x7fff,
            0xffff,
            0x1_0000,
            0x00ff_ffff,
            0x7fff_ffff,
            0x8000_0000,
            u32::MAX,
        ];
        match self.below(4) {
            0 => self.next() as u32,
            1 => self.next() as u32 % 100_000,
            _ => EDGES[self.below(EDGES.len())],
        }
    }
}

/// Flips, cuts, doubles, moves, overwrites, and splices from `other`.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let value = random.next() as u8;
        let to = (at + random.below(64)).min(bytes.len());
        match random.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (value % 8),
            1 if !bytes.is_empty() => bytes[at] = value,
            2 if random.once_in(4) => bytes.truncate(at),
            3 => bytes.insert(at, value),
            4 => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => drop(bytes.drain(at..to)),
            6 => {
                let piece: Vec<u8> = bytes.drain(at..to).collect();
                let target = random.below(bytes.len());
                bytes.splice(target..target, piece);
            }
            7 => {
                let from = random.below(other.len());
                let until = (from + random.below(200)).min(other.len());
                bytes.splice(at..to, other[from..until].iter().copied());
            }
            _ if !bytes.is_empty() => bytes[at] = [0, 0xff, 0x7f, 0x80][usize::from(value % 4)],
            _ => {}
        }
    }
}
