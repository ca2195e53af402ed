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
    /// What a wave runs of one round, where `rounds` says how often a loop in it does.
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
    let text = Text {
        lines: &lines,
        skipped: Vec::new(),
    };
    let mut spans: Vec<RangeInclusive<usize>> = Vec::new();
    for at in 0..lines.len() {
        let Some(start) = text.target(at).filter(|start| *start < at) else {
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
    inside: &[RangeInclusive<usize>],
    lines: &[&str],
) -> Option<Loop> {
    let mut inner = Vec::new();
    let mut skipped = Vec::new();
    let mut rest = inside;
    while let Some((first, others)) = rest.split_first() {
        let count = others.iter().take_while(|other| other.end() <= first.end());
        let count = count.count();
        inner.extend(loop_of(first, &others[..count], lines));
        skipped.push(first.clone());
        rest = &others[count..];
    }
    let text = Text { lines, skipped };
    let own = text.run(*span.start(), span.end() + 1);
    let multiplies = own.fused > 0.0 || !inner.is_empty();
    multiplies.then_some(Loop { own, inner })
}

/// A listing without some of its loops.
struct Text<'a> {
    lines: &'a [&'a str],
    skipped: Vec<RangeInclusive<usize>>,
}

impl Text<'_> {
    /// What a wave runs of the lines from `start` to before `end`. Of what some lanes do and others do not, the longer one:
    /// kernels part their lanes by whole waves.
    fn run(&self, start: usize, end: usize) -> Mix {
        let mut mix = Mix::default();
        let mut at = start;
        while at < end {
            if let Some(inner) = self.skipped.iter().find(|inner| *inner.start() == at) {
                at = inner.end() + 1;
                continue;
            }
            // RDNA 3 has two in one
            for instruction in self.lines[at].split("::") {
                mix = mix.plus(mix_of(instruction), 1.0);
            }
            let target = self.target(at).filter(|target| (at..end).contains(target));
            at += 1;
            let Some(target) = target else {
                continue;
            };
            if self.lines[at - 1].contains("execz") {
                let (otherwise, after) = self.otherwise(target, end);
                let then = self.run(at, target);
                let longer = then.vector >= otherwise.vector;
                mix = mix.plus(if longer { then } else { otherwise }, 1.0);
                at = after;
            } else {
                let (branch, after) = self.branch(at, target, end);
                mix = mix.plus(branch, 1.0);
                at = after;
            }
        }
        mix
    }

    /// Where the whole wave jumps from before `at` to `target`: what runs of a whole tile, and the line after that. Of two
    /// sides the shorter one, and nothing where one side neither reads nor multiplies: that is for the last tile.
    fn branch(&self, at: usize, target: usize, end: usize) -> (Mix, usize) {
        let jumped = self.run(at, target);
        let after = self.target(target - 1);
        if let Some(after) = after.filter(|after| (target..end).contains(after)) {
            let other = self.run(target, after);
            let shorter = jumped.vector <= other.vector;
            return (if shorter { jumped } else { other }, after);
        }
        let reads = self.lines[at..target]
            .iter()
            .any(|line| line.contains("_load_"));
        if reads || jumped.fused > 0.0 {
            (jumped, target)
        } else {
            (Mix::default(), target)
        }
    }

    /// What the other lanes do, if anything, where lanes that do something else end at `at`; and the line after that.
    fn otherwise(&self, at: usize, end: usize) -> (Mix, usize) {
        let is_code = |line: &usize| !self.lines[*line].starts_with("BB");
        let mut code = (at..end).filter(is_code);
        let (Some(first), Some(second)) = (code.next(), code.next()) else {
            return (Mix::default(), at);
        };
        let turns = self.lines[first].contains("s_andn2_b64 exec");
        let target = self
            .target(second)
            .filter(|target| (second..end).contains(target));
        match target {
            Some(target) if turns && self.lines[second].contains("execz") => {
                (self.run(second + 1, target), target)
            }
            _ => (Mix::default(), at),
        }
    }

    /// The line that a branch jumps to.
    fn target(&self, at: usize) -> Option<usize> {
        let mut words = self.lines[at].split_whitespace();
        let is_branch = words.next()?.contains("branch");
        let name = words.next()?;
        let is_target = |line: &str| line.trim_end().strip_suffix(':') == Some(name);
        is_branch.then(|| self.lines.iter().position(|line| is_target(line)))?
    }
}

fn mix_of(instruction: &str) -> Mix {
    let name = instruction.split_whitespace().next().unwrap_or_default();
    let Some(name) = name.strip_prefix("v_") else {
        return Mix::default();
    };
    let name = name.trim_start_matches("dual_");
    let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    let is_fused = starts(&["fma", "mac_", "mad"]) && name.contains("f32");
    let is_long = starts(&["exp_", "log_", "rcp_", "rsq_", "sqrt_"]);
    Mix {
        fused: f64::from(u8::from(is_fused)),
        vector: if is_long { 4.0 } else { 1.0 },
    }
}
