//! What share of its vector instructions a kernel multiplies and adds with, by the listing of AMD's compiler.

use std::ops::RangeInclusive;

/// Instructions of a wave that work on registers of each lane, those of a piece of the text or as often as they run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mix {
    /// Fused multiply-adds of f32.
    pub fused: f64,
    /// All of them; those for exponentials and the like count 4 times, as long as they take.
    pub vector: f64,
}

impl Mix {
    /// With another one so many times.
    pub fn plus(self, other: Self, times: f64) -> Self {
        Self {
            fused: self.fused + times * other.fused,
            vector: self.vector + times * other.vector,
        }
    }

    /// From 0 to 1.
    pub fn share(self) -> f64 {
        self.fused / self.vector
    }
}

/// A loop of the text, and the loops in it.
#[derive(Debug)]
pub struct Loop {
    /// Of the text of the loop without the loops in it.
    pub own: Mix,
    /// In the order of the text; those that multiply and add.
    pub inner: Vec<Loop>,
}

impl Loop {
    /// What one round runs, where `rounds` says how often a loop in it does. Of a branch both sides are counted: more than
    /// any wave runs.
    pub fn mix(&self, rounds: &dyn Fn(&Loop) -> f64) -> Mix {
        let inner = self.inner.iter();
        inner.fold(self.own, |mix, inner| {
            mix.plus(inner.mix(rounds), rounds(inner))
        })
    }
}

/// The outermost loops that multiply and add.
pub fn loops(listing: &str) -> Vec<Loop> {
    let lines: Vec<&str> = listing.lines().collect();
    let label = |line: &str| {
        let (name, rest) = line.trim_end().split_once(':')?;
        (name.starts_with("BB") && rest.is_empty()).then(|| name.to_owned())
    };
    let mut spans: Vec<RangeInclusive<usize>> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [instruction, target, ..] = words[..] else {
            continue;
        };
        let is_branch = instruction.starts_with("s_branch") || instruction.starts_with("s_cbranch");
        let start = lines[..at]
            .iter()
            .position(|line| is_branch && label(line).as_deref() == Some(target));
        let Some(start) = start else {
            continue;
        };
        match spans.iter_mut().find(|span| *span.start() == start) {
            Some(span) => *span = start..=at,
            None => spans.push(start..=at),
        }
    }
    // outer loops before those in them
    spans.sort_by_key(|span| (*span.start(), usize::MAX - span.end()));
    let mut outermost = Vec::new();
    let mut rest = spans.as_slice();
    while let Some((span, others)) = rest.split_first() {
        let inside = others.iter().take_while(|other| other.end() <= span.end());
        let inside = inside.count();
        outermost.extend(loop_of(span, &others[..inside], &lines));
        rest = &others[inside..];
    }
    outermost
}

/// The loop at `span`, whose loops are at `inside`; none where nothing is multiplied and added in it.
fn loop_of(
    span: &RangeInclusive<usize>,
    mut inside: &[RangeInclusive<usize>],
    lines: &[&str],
) -> Option<Loop> {
    let mut inner = Vec::new();
    let mut own = mix_of(&lines[span.clone()]);
    while let Some((first, others)) = inside.split_first() {
        let count = others.iter().take_while(|other| other.end() <= first.end());
        let count = count.count();
        own = own.plus(mix_of(&lines[first.clone()]), -1.0);
        inner.extend(loop_of(first, &others[..count], lines));
        inside = &others[count..];
    }
    let found = Loop { own, inner };
    let multiplies = found.own.fused > 0.0 || !found.inner.is_empty();
    multiplies.then_some(found)
}

fn mix_of(lines: &[&str]) -> Mix {
    let names = lines.iter().filter_map(|line| line.split_whitespace().next());
    let mut mix = Mix::default();
    for name in names.filter(|name| name.starts_with("v_")) {
        let name = name.trim_start_matches("v_dual_");
        let name = name.trim_start_matches("v_");
        let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
        let is_fused = starts(&["fma", "mac_", "mad"]) && name.contains("f32");
        mix.fused += f64::from(u8::from(is_fused));
        let is_long = starts(&["exp_", "log_", "rcp_", "rsq_", "sqrt_"]);
        mix.vector += if is_long { 4.0 } else { 1.0 };
    }
    mix
}
