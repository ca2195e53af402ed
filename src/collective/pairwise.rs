//! Sums in an order that depends on the number of terms alone.

/// A sum by pairs: of terms 0 to 4 it is ((0 + 1) + (2 + 3)) + 4.
///
/// Terms that come in one after the other need room for one partial sum more than the logarithm of their number. Where each of
/// 2 or 4 ranks sums its own quarter or half of 4 terms, and then the ranks' sums are added in the same way, the result has
/// the same bits, as the sum of floating-point numbers depends on its order.
#[derive(Debug)]
pub struct Pairwise<T> {
    /// Sums of 2^level terms, the largest first, each level at most once.
    partial: Vec<(u32, T)>,
}

impl<T> Default for Pairwise<T> {
    fn default() -> Self {
        Self {
            partial: Vec::new(),
        }
    }
}

impl<T> Pairwise<T> {
    /// Adds a term.
    pub fn push(&mut self, term: T, mut add: impl FnMut(T, T) -> T) {
        let (mut level, mut sum) = (0, term);
        while let Some((_, before)) = self.partial.pop_if(|(last, _)| *last == level) {
            sum = add(before, sum);
            level += 1;
        }
        self.partial.push((level, sum));
    }

    /// The sum of all terms; none of no terms.
    pub fn finish(self, mut add: impl FnMut(T, T) -> T) -> Option<T> {
        let partial = self.partial.into_iter().map(|(_, sum)| sum).rev();
        partial.reduce(|later, before| add(before, later))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(terms: impl IntoIterator<Item = String>) -> String {
        let add = |a: String, b: String| format!("({a}{b})");
        let mut sum = Pairwise::default();
        for term in terms {
            sum.push(term, add);
        }
        sum.finish(add).unwrap_or_default()
    }

    fn names(terms: std::ops::Range<usize>) -> impl Iterator<Item = String> {
        terms.map(|term| term.to_string())
    }

    #[test]
    fn terms_are_added_by_pairs() {
        assert_eq!(order(names(0..0)), "");
        assert_eq!(order(names(0..1)), "0");
        assert_eq!(order(names(0..3)), "((01)2)");
        assert_eq!(order(names(0..5)), "(((01)(23))4)");
        assert_eq!(order(names(0..7)), "(((01)(23))((45)6))");
    }

    #[test]
    fn ranks_with_a_power_of_two_of_terms_add_in_the_same_order() {
        for (ranks, each) in [(2, 2), (4, 1), (3, 2), (5, 4), (2, 8)] {
            let of_rank = |rank| order(names(rank * each..(rank + 1) * each));
            assert_eq!(
                order((0..ranks).map(of_rank)),
                order(names(0..ranks * each))
            );
        }
    }
}
