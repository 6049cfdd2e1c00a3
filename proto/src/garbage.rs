//! Hostile bytes for the decoders' tests: always the same ones, so that a failure repeats.

/// xorshift64*: enough to vary bytes, and no dependency.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}

/// Calls `decode` with every truncation of each valid packet, with 20,000 mutations of them,
/// and with 5,000 packets of random bytes.
pub(crate) fn throw(valid: &[&[u8]], mut decode: impl FnMut(&[u8])) {
    for packet in valid {
        for len in 0..=packet.len() {
            decode(&packet[..len]);
        }
    }
    let mut random = Random::new(0x70_67_77_65_69_72);
    for _ in 0..20_000 {
        let mut packet = valid[random.below(valid.len())].to_vec();
        for _ in 0..=random.below(4) {
            mutate(&mut packet, &mut random);
        }
        decode(&packet);
    }
    for _ in 0..5_000 {
        let len = random.below(300);
        let packet: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        decode(&packet);
    }
}

fn mutate(packet: &mut Vec<u8>, random: &mut Random) {
    const TELLING: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b',', b'=', b'\\', b'-', b'$'];
    let at = random.below(packet.len() + 1);
    let byte = match random.below(2) {
        0 => TELLING[random.below(TELLING.len())],
        _ => random.next() as u8,
    };
    match random.below(5) {
        0 => packet.truncate(at),
        1 => packet.insert(at, byte),
        2 => packet.extend_from_within(at..),
        _ if at < packet.len() => packet[at] = byte,
        _ => packet.push(byte),
    }
}
