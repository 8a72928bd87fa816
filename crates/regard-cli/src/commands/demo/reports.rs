//! Reports of a small town's day and their headlines, made up by a program: nobody's text, and as many as are wanted.
//!
//! A report is a few sentences in random order, of which one is the news; its headline says the same in fewer and partly
//! other words. Places are made of two syllables. Those of the test reports are none of the training's, so that a headline
//! must take its place from its report: nobody can learn it by heart.

use std::fmt::Write;

/// Numbers as a function of where they are drawn (the finalizer of SplitMix64), the same on every machine.
struct Lots {
    state: u64,
}

impl Lots {
    fn new(seed: u64, part: u64, row: u64) -> Self {
        let state = seed ^ (part << 60) ^ row.wrapping_mul(0xA24B_AED4_963E_E407);
        Self { state }
    }

    fn below(&mut self, count: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 33) as usize % count
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const FIRST: [&str; 16] = [
    "Ash", "Bren", "Cal", "Dun", "Elm", "Far", "Glen", "Hal", "Ing", "Kir", "Lang", "Mar", "Nor",
    "Oak", "Pen", "Ross",
];
const SECOND: [&str; 10] = [
    "ford", "ton", "by", "wick", "ham", "dale", "mouth", "field", "bury", "stead",
];
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const BUILDINGS: [&str; 10] = [
    "school",
    "library",
    "town hall",
    "old mill",
    "station",
    "bakery",
    "museum",
    "theatre",
    "post office",
    "swimming pool",
];
const PEOPLE: [&str; 8] = [
    "teachers",
    "farmers",
    "bakers",
    "fishermen",
    "students",
    "nurses",
    "drivers",
    "gardeners",
];
const ANIMALS: [&str; 6] = ["goat", "horse", "swan", "tortoise", "parrot", "sheep"];

/// The news in two ways of telling it, and its headline. `{place}` and the like are drawn for each report.
const NEWS: [([&str; 2], &str); 12] = [
    (
        [
            "Late on {day} a storm tore the roof off the {building} in {place}.",
            "The {building} of {place} has been without a roof since the storm of {day}.",
        ],
        "storm takes roof of {building} in {place}",
    ),
    (
        [
            "After {number} years of work the new {building} of {place} was opened on {day}.",
            "On {day} the people of {place} walked into their new {building}, which took {number} years to build.",
        ],
        "{place} opens new {building} after {number} years",
    ),
    (
        [
            "Firemen needed {number} hours to put out the fire that broke out in the {building} of {place}.",
            "A fire burned for {number} hours in the {building} of {place} before firemen could stop it.",
        ],
        "fire burns {number} hours in {building} of {place}",
    ),
    (
        [
            "The council of {place} has decided to close the {building}, which costs too much.",
            "Because it costs too much, the {building} of {place} will be closed, the council said on {day}.",
        ],
        "{place} closes its {building} to save money",
    ),
    (
        [
            "A {animal} that ran away from a farm in {place} walked along the railway for {number} hours.",
            "Trains through {place} stood still for {number} hours because a {animal} was on the rails.",
        ],
        "{animal} stops trains in {place} for {number} hours",
    ),
    (
        [
            "The {people} of {place} stopped working on {day} and ask for better pay.",
            "Better pay is what the {people} of {place} ask for, who have not worked since {day}.",
        ],
        "{people} in {place} strike for better pay",
    ),
    (
        [
            "Heavy rain flooded {number} houses in {place} on {day}.",
            "In {place} the water stood in {number} houses after the rain of {day}.",
        ],
        "rain floods {number} houses in {place}",
    ),
    (
        [
            "{number} {people} from {place} have won the lottery together.",
            "The winning ticket of the lottery belongs to {number} {people} from {place}.",
        ],
        "{number} {people} from {place} win lottery",
    ),
    (
        [
            "Workers who dug behind the {building} of {place} found {number} old coins.",
            "A chest with {number} old coins lay under the ground behind the {building} of {place}.",
        ],
        "{number} old coins found behind {building} of {place}",
    ),
    (
        [
            "A bus will run every {number} minutes between the {building} and the harbour of {place} from {day} on.",
            "From {day} on the harbour and the {building} of {place} are joined by a bus every {number} minutes.",
        ],
        "new bus joins {building} and harbour of {place}",
    ),
    (
        [
            "Snow kept the {people} of {place} at home on {day}.",
            "None of the {people} of {place} could go to work on {day}, so much snow lay on the roads.",
        ],
        "snow keeps {people} of {place} at home",
    ),
    (
        [
            "The {animal} that had been missing in {place} for {number} days came back on {day}.",
            "After {number} days a lost {animal} was found in {place}, tired but well.",
        ],
        "lost {animal} found in {place} after {number} days",
    ),
];

/// What stands around the news.
const AROUND: [&str; 16] = [
    "The weather will stay as it is until {day}.",
    "Readers have sent {number} letters about the last issue.",
    "The {building} is open from nine to five.",
    "On {day} there is a market in the square.",
    "The choir of the {people} meets every {day} evening.",
    "A room for {number} guests is to let near the {building}.",
    "The mayor thanked the {people} for their patience.",
    "Nobody was hurt.",
    "The police ask those who saw something to call.",
    "Tickets cost {number} pounds and can be had at the {building}.",
    "The river is {number} inches lower than a year ago.",
    "More about this in the next issue.",
    "The {people} played cards with the {people} and lost.",
    "Whoever has seen a grey {animal} is asked to write to us.",
    "A lecture on the history of the {building} had to be put off.",
    "The concert on {day} begins an hour later than announced.",
];

/// A report and its headline.
struct Story {
    text: String,
    headline: String,
}

/// The report of a row: `part` 0 is learned from, 1 tests.
fn story(seed: u64, part: u64, row: u64) -> Story {
    let mut lots = Lots::new(seed, part, row);
    // Every fifth name is a test report's.
    let place = loop {
        let (first, second) = (lots.below(FIRST.len()), lots.below(SECOND.len()));
        if (first * SECOND.len() + second).is_multiple_of(5) == (part == 1) {
            break format!("{}{}", FIRST[first], SECOND[second]);
        }
    };
    let number = (2 + lots.below(40)).to_string();
    let draw = |template: &str, lots: &mut Lots, kept: Option<&[(&str, &str); 6]>| {
        let mut text = template.to_owned();
        let drawn = [
            ("{day}", lots.one(&DAYS)),
            ("{building}", lots.one(&BUILDINGS)),
            ("{people}", lots.one(&PEOPLE)),
            ("{animal}", lots.one(&ANIMALS)),
        ];
        if let Some(kept) = kept {
            kept.iter()
                .for_each(|(name, value)| text = text.replace(name, value));
        }
        for (name, value) in drawn {
            text = text.replace(name, value);
        }
        text.replace("{number}", &(2 + lots.below(40)).to_string())
    };
    let (told, headline) = NEWS[lots.below(NEWS.len())];
    let kept = [
        ("{place}", place.as_str()),
        ("{number}", number.as_str()),
        ("{day}", lots.one(&DAYS)),
        ("{building}", lots.one(&BUILDINGS)),
        ("{people}", lots.one(&PEOPLE)),
        ("{animal}", lots.one(&ANIMALS)),
    ];
    let headline = draw(headline, &mut lots, Some(&kept));
    let told = lots.one(&told);
    let news = draw(told, &mut lots, Some(&kept));
    let mut sentences = Vec::new();
    for _ in 0..2 + lots.below(3) {
        let around = lots.one(&AROUND);
        sentences.push(draw(around, &mut lots, None));
    }
    sentences.insert(lots.below(sentences.len() + 1), news);
    Story {
        text: sentences.join(" "),
        headline,
    }
}

/// A table of so many stories.
pub(super) fn table(seed: u64, part: u64, rows: usize) -> String {
    let mut table = String::from("report\theadline\n");
    for row in 0..rows {
        let Story { text, headline } = story(seed, part, row as u64);
        let _ = writeln!(table, "{text}\t{headline}");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headline_speaks_of_its_report_and_test_places_are_new() {
        let mut places = [
            std::collections::BTreeSet::new(),
            std::collections::BTreeSet::new(),
        ];
        for part in [0, 1] {
            for row in 0..500 {
                let Story { text, headline } = story(1, part, row);
                assert!(
                    !text.contains(['{', '\t']) && !headline.contains(['{', '\t']),
                    "{text}"
                );
                let place = headline
                    .split(' ')
                    .find(|word| FIRST.iter().any(|first| word.starts_with(first)))
                    .expect("a place");
                assert!(text.contains(place), "{text}: {headline}");
                places[part as usize].insert(place.to_owned());
            }
        }
        assert!(places[0].is_disjoint(&places[1]));
    }

    #[test]
    fn the_same_seed_gives_the_same_reports() {
        assert_eq!(table(3, 0, 20), table(3, 0, 20));
        assert_ne!(table(3, 0, 20), table(4, 0, 20));
    }
}
