//! Which person is which track: the pairs of greatest gain together.

use std::ops::Range;

/// A row and a column that may become a pair, and what that is worth, above 0.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub row: usize,
    pub column: usize,
    pub gain: f64,
}

/// Pairs, by rows, such that no row and no column has two and the sum of gains is the greatest possible.
///
/// Candidates without a connection are solved apart: a crowd falls into many small groups.
///
/// # Panics
/// If a candidate's row or column is out of range.
pub fn assign(rows: usize, columns: usize, candidates: &[Candidate]) -> Vec<(usize, usize)> {
    let mut groups = Groups::new(rows + columns);
    candidates.iter().for_each(|c| groups.join(c.row, rows + c.column));
    let mut by_group: Vec<(usize, Candidate)> =
        candidates.iter().map(|&c| (groups.first(c.row), c)).collect();
    by_group.sort_by_key(|&(group, c)| (group, c.row, c.column));
    let mut pairs: Vec<(usize, usize)> = by_group.chunk_by(|a, b| a.0 == b.0).flat_map(solve_group).collect();
    pairs.sort_unstable();
    pairs
}

/// Sets of nodes that are connected.
struct Groups(Vec<usize>);

impl Groups {
    fn new(nodes: usize) -> Groups {
        Groups((0..nodes).collect())
    }

    /// The node that stands for a node's set.
    fn first(&mut self, mut node: usize) -> usize {
        while self.0[node] != node {
            self.0[node] = self.0[self.0[node]];
            node = self.0[node];
        }
        node
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// Solves the candidates of one group as a dense problem.
fn solve_group(group: &[(usize, Candidate)]) -> Vec<(usize, usize)> {
    if let [(_, only)] = group {
        return vec![(only.row, only.column)];
    }
    let distinct = |of: fn(&Candidate) -> usize| {
        let mut all: Vec<usize> = group.iter().map(|(_, c)| of(c)).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let (rows, columns) = (distinct(|c| c.row), distinct(|c| c.column));
    let flip = rows.len() > columns.len();
    let (few, many) = if flip { (&columns, &rows) } else { (&rows, &columns) };
    let mut costs = vec![0.0; few.len() * many.len()];
    for (_, c) in group {
        let (a, b) = if flip { (c.column, c.row) } else { (c.row, c.column) };
        let place = |list: &[usize], key| list.binary_search(&key).expect("listed above");
        costs[place(few, a) * many.len() + place(many, b)] = -c.gain;
    }
    let chosen = hungarian(few.len(), many.len(), &costs);
    let pairs = chosen.into_iter().enumerate().filter(|&(i, j)| costs[i * many.len() + j] < 0.0);
    pairs.map(|(i, j)| if flip { (many[j], few[i]) } else { (few[i], many[j]) }).collect()
}

/// The column of each row with the least sum of costs: the Hungarian method by shortest augmenting paths (Jonker and
/// Volgenant). There are no more rows than columns.
fn hungarian(rows: usize, columns: usize, costs: &[f64]) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    let (mut row_price, mut column_price) = (vec![0.0; rows], vec![0.0; columns]);
    let mut row_of = vec![NONE; columns];
    for start in 0..rows {
        // Dijkstra's algorithm from this row to a free column. `from[j]` is the column whose row is left towards j.
        let mut distance = vec![f64::INFINITY; columns];
        let mut from = vec![NONE; columns];
        let mut open: Range<usize> = 0..columns;
        let mut order: Vec<usize> = open.clone().collect();
        let (mut row, mut column, mut reached) = (start, NONE, 0.0);
        let free = loop {
            for &j in &order[open.clone()] {
                let d = reached + costs[row * columns + j] - row_price[row] - column_price[j];
                if d < distance[j] {
                    (distance[j], from[j]) = (d, column);
                }
            }
            let nearest = open.clone().min_by(|&a, &b| distance[order[a]].total_cmp(&distance[order[b]]));
            let nearest = nearest.expect("as many columns as rows");
            order.swap(open.start, nearest);
            column = order[open.start];
            open.start += 1;
            reached = distance[column];
            if row_of[column] == NONE {
                break column;
            }
            row = row_of[column];
        };
        // Prices change so that no cost along the path is left to pay.
        row_price[start] += reached;
        for &j in &order[..open.start] {
            if row_of[j] != NONE {
                row_price[row_of[j]] += reached - distance[j];
            }
            column_price[j] -= reached - distance[j];
        }
        let mut j = free;
        while from[j] != NONE {
            row_of[j] = row_of[from[j]];
            j = from[j];
        }
        row_of[j] = start;
    }
    let mut chosen = vec![NONE; rows];
    for (j, &i) in row_of.iter().enumerate().filter(|&(_, &i)| i != NONE) {
        chosen[i] = j;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The greatest sum by trying everything.
    fn best(rows: usize, columns: usize, gains: &[Vec<f64>], used: u32, row: usize) -> f64 {
        if row == rows {
            return 0.0;
        }
        let with = (0..columns)
            .filter(|j| used >> j & 1 == 0 && gains[row][*j] > 0.0)
            .map(|j| gains[row][j] + best(rows, columns, gains, used | 1 << j, row + 1));
        with.fold(best(rows, columns, gains, used, row + 1), f64::max)
    }

    proptest! {
        #[test]
        fn no_other_pairs_are_worth_more(
            rows in 0usize..6,
            columns in 0usize..6,
            // A third of the pairs are none; few values, so that ties occur.
            values in prop::collection::vec(prop_oneof![Just(0.0), 0.0..1.0f64, (0u8..4).prop_map(|v| v as f64 / 4.0)], 36),
        ) {
            let gains: Vec<Vec<f64>> = values.chunks(6).map(<[f64]>::to_vec).collect();
            let mut candidates = Vec::new();
            for (row, gains) in gains.iter().enumerate().take(rows) {
                let pairs = gains.iter().enumerate().take(columns).filter(|(_, gain)| **gain > 0.0);
                candidates.extend(pairs.map(|(column, &gain)| Candidate { row, column, gain }));
            }
            let pairs = assign(rows, columns, &candidates);
            for (i, a) in pairs.iter().enumerate() {
                prop_assert!(gains[a.0][a.1] > 0.0);
                prop_assert!(pairs[..i].iter().all(|b| b.0 != a.0 && b.1 != a.1));
            }
            let sum: f64 = pairs.iter().map(|&(i, j)| gains[i][j]).sum();
            let expected = best(rows, columns, &gains, 0, 0);
            prop_assert!((sum - expected).abs() < 1e-12, "{sum} {expected}");
        }
    }

    #[test]
    fn two_rows_for_one_column() {
        let candidates = [0.3, 0.5].iter().enumerate().map(|(row, &gain)| Candidate { row, column: 4, gain });
        assert_eq!(assign(2, 5, &candidates.collect::<Vec<_>>()), [(1, 4)]);
        assert!(assign(0, 0, &[]).is_empty());
    }
}
