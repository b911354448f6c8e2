//! A drawing of what was measured: how many times as good as Keystead each subject is, a line for each measure.
//!
//! The background is part of it, so that it reads the same whatever is behind it.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::table::{Better, OURS, Table, figure};

/// Draws parts, each below the one before: their titles, and what they measured.
///
/// # Errors
/// What the drawing library says.
pub fn svg(parts: &[(String, Table)]) -> Result<String> {
    let parts: Vec<_> = parts.iter().map(|(title, table)| Part::new(title, table)).collect();
    let height: i32 = parts.iter().map(Part::height).sum();
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
    area.fill(&WHITE)?;
    let drawing = Drawing { area };
    let mut top = 0;
    for part in &parts {
        drawing.part(part, top)?;
        top += part.height();
    }
    drawing.area.present()?;
    drop(drawing);
    Ok(text)
}

// Everything in pixels.
const WIDTH: i32 = 1120;
/// Where ratios are: to the left of them measures have their names, and to the right Keystead its figures.
const RATIOS: Range<i32> = 500..1030;
const MARGIN: i32 = 12;
const TITLE: i32 = 40;
const LINE: i32 = 19;
/// The size of letters.
const TEXT: i32 = 15;
/// Subjects beside each other in the legend.
const COLUMNS: usize = 4;

/// What of a part is drawn.
struct Part<'t> {
    title: &'t str,
    subjects: Vec<&'t str>,
    /// The index of the subject that others are set against: Keystead, or the first way of measuring it.
    ours: Option<usize>,
    lines: Vec<Line<'t>>,
}

/// A measure.
struct Line<'t> {
    measure: &'t str,
    /// Keystead's median; `None` where it has none.
    ours: Option<f64>,
    /// The index of each subject, and how many times as good as Keystead it is.
    ratios: Vec<(usize, f64)>,
}

impl<'t> Part<'t> {
    fn new(title: &'t str, table: &'t Table) -> Self {
        let subjects = table.subjects();
        let named = |is_ours: fn(&str) -> bool| subjects.iter().position(|subject| is_ours(subject));
        let ours = named(|subject| subject == OURS).or_else(|| named(|subject| subject.starts_with(OURS)));
        let compared = table.measures.iter().filter(|(_, better)| *better != Better::Neither);
        let lines = compared.map(|(measure, better)| {
            let medians = table.medians(measure);
            let ours = ours.and_then(|index| medians.get(*subjects.get(index)?).copied());
            let ratio = |(index, subject): (usize, &&str)| {
                let (ours, value) = (ours?, *medians.get(*subject)?);
                let ratio = match better {
                    Better::More => value / ours,
                    Better::Less => ours / value,
                    Better::Neither => return None,
                };
                // What took nothing stands nowhere on a scale of ratios.
                (ratio.is_finite() && ratio > 0.0).then_some((index, ratio))
            };
            Line { measure, ours, ratios: subjects.iter().enumerate().filter_map(ratio).collect() }
        });
        let lines = lines.collect();
        Self { title, subjects, ours, lines }
    }

    fn legend_height(&self) -> i32 {
        LINE * count(self.subjects.len().div_ceil(COLUMNS))
    }

    /// Title, legend, lines, the scale, and room to the next.
    fn height(&self) -> i32 {
        TITLE + self.legend_height() + LINE * (count(self.lines.len()) + 3)
    }

    /// What a subject is told by: Keystead by the colour of what it is set against, and each other by colour and shape.
    fn marker(&self, subject: usize) -> (Shape, RGBColor) {
        let others = match self.ours {
            Some(ours) if ours == subject => return (Shape::Circle, INK),
            Some(ours) if ours < subject => subject - 1,
            Some(_) | None => subject,
        };
        let shapes = [Shape::Triangle, Shape::Cross, Shape::Circle];
        let shape = shapes.get((others + others / COLOURS.len()) % shapes.len()).copied();
        (shape.unwrap_or(Shape::Circle), COLOURS.get(others % COLOURS.len()).copied().unwrap_or(INK))
    }

    /// The scale of its ratios, with room at both ends.
    fn scale(&self) -> Scale {
        let ratios = || self.lines.iter().flat_map(|line| &line.ratios).map(|(_, ratio)| *ratio);
        Scale { low: ratios().fold(0.5, f64::min) / 1.2, high: ratios().fold(2.0, f64::max) * 1.2 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Circle,
    Triangle,
    Cross,
}

/// A logarithmic scale, so that twice and half are as far from even.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn x(&self, ratio: f64) -> i32 {
        let share = (ratio / self.low).ln() / (self.high / self.low).ln();
        RATIOS.start + (share * f64::from(RATIOS.end - RATIOS.start)).round() as i32
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        let powers = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
        // Where there are more powers of ten, they are enough.
        let within: &[f64] = if self.high / self.low < 300.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let marks = powers.flat_map(move |power| within.iter().map(move |mark| mark * 10_f64.powi(power)));
        marks.filter(|mark| (self.low..self.high).contains(mark))
    }
}

struct Drawing<'d> {
    area: DrawingArea<SVGBackend<'d>, Shift>,
}

const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// Those of Okabe and Ito that stand out from white, which colour-blind people tell apart.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

impl Drawing<'_> {
    fn part(&self, part: &Part<'_>, top: i32) -> Result<()> {
        self.text(part.title, (MARGIN, top + TITLE / 2), HPos::Left, TEXT + 6)?;
        let mut y = top + TITLE + LINE / 2;
        for (index, subject) in part.subjects.iter().enumerate() {
            let step = (WIDTH - 2 * MARGIN) / count(COLUMNS);
            let at = (MARGIN + step * count(index % COLUMNS), y + LINE * count(index / COLUMNS));
            self.marker((at.0 + 5, at.1), part.marker(index))?;
            self.text(subject, (at.0 + 16, at.1), HPos::Left, TEXT)?;
        }
        y += part.legend_height() + LINE / 2;
        self.text("times as good as Keystead (better to the right)", (RATIOS.start, y), HPos::Left, TEXT)?;
        self.text("Keystead", (WIDTH - MARGIN, y), HPos::Right, TEXT)?;
        y += LINE;
        let scale = part.scale();
        self.scale(&scale, y - LINE / 2..y + LINE * count(part.lines.len()) - LINE / 2)?;
        for line in &part.lines {
            self.line(line, y)?;
            for (index, ratio) in &line.ratios {
                self.marker((scale.x(*ratio), y), part.marker(*index))?;
            }
            y += LINE;
        }
        Ok(())
    }

    fn scale(&self, scale: &Scale, height: Range<i32>) -> Result<()> {
        for mark in scale.marks() {
            let x = scale.x(mark);
            let colour = if mark == 1.0 { INK } else { FAINT };
            self.area.draw(&PathElement::new([(x, height.start), (x, height.end)], colour))?;
            self.text(&mark.to_string(), (x, height.end + LINE / 2), HPos::Center, TEXT)?;
        }
        Ok(())
    }

    fn line(&self, line: &Line<'_>, y: i32) -> Result<()> {
        self.text(line.measure, (RATIOS.start - MARGIN, y), HPos::Right, TEXT)?;
        let ours = line.ours.map_or_else(|| "not measured".to_owned(), figure);
        self.text(&ours, (WIDTH - MARGIN, y), HPos::Right, TEXT)
    }

    fn marker(&self, at: (i32, i32), (shape, colour): (Shape, RGBColor)) -> Result<()> {
        match shape {
            Shape::Circle => self.area.draw(&Circle::new(at, 4, colour.filled()))?,
            Shape::Triangle => self.area.draw(&TriangleMarker::new(at, 5, colour.filled()))?,
            Shape::Cross => self.area.draw(&Cross::new(at, 4, colour.stroke_width(2)))?,
        }
        Ok(())
    }

    fn text(&self, text: &str, at: (i32, i32), anchor: HPos, size: i32) -> Result<()> {
        let style = ("sans-serif", size).into_text_style(&self.area).color(&INK).pos(Pos::new(anchor, VPos::Center));
        Ok(self.area.draw_text(text, &style, at)?)
    }
}

/// As many, in the type of pixels.
fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_is_drawn_whoever_was_measured() {
        let mut table = Table::default();
        table.add("rate & <b>: per second", Better::More, OURS, 2.0);
        table.add("rate & <b>: per second", Better::More, "\"other\"", 3.0);
        table.add("of another alone", Better::Less, "raw", 7.0);
        table.add("took nothing", Better::Less, OURS, 0.0);
        table.add("of no merit", Better::Neither, OURS, 1.0);
        let drawn = svg(&[("First".to_owned(), table), ("Nothing was measured".to_owned(), Table::default())]).unwrap();
        for text in
            ["First", "rate &amp; &lt;b&gt;: per second", "&quot;other&quot;", "of another alone", "took nothing"]
        {
            assert!(drawn.lines().any(|line| line.trim() == text), "{text} is missing in {drawn}");
        }
        assert!(drawn.contains("Nothing was measured") && !drawn.contains("<b>") && !drawn.contains("of no merit"));
        assert!(drawn.contains("font-family=\"sans-serif\"") && !drawn.contains("href"));
    }

    #[test]
    fn a_ratio_above_one_is_better_than_keystead_whatever_is_counted() {
        let mut table = Table::default();
        for (measure, better) in [("rate", Better::More), ("time", Better::Less)] {
            table.add(measure, better, OURS, 4.0);
            table.add(measure, better, "other", 8.0);
        }
        let part = Part::new("", &table);
        let ratios: Vec<_> = part.lines.iter().map(|line| line.ratios.clone()).collect();
        assert_eq!(ratios, [[(0, 1.0), (1, 2.0)], [(0, 1.0), (1, 0.5)]]);
    }

    #[test]
    fn the_first_way_of_measuring_keystead_stands_for_it() {
        let mut table = Table::default();
        for (subject, value) in [("other", 1.0), ("keystead, near", 2.0), ("keystead, far", 4.0)] {
            table.add("time", Better::Less, subject, value);
        }
        assert_eq!(Part::new("", &table).lines[0].ratios, [(0, 2.0), (1, 1.0), (2, 0.5)]);
    }

    #[test]
    fn subjects_are_told_apart() {
        let mut table = Table::default();
        ["one", OURS].into_iter().for_each(|subject| table.add("time", Better::Less, subject, 1.0));
        (0..10).for_each(|subject| table.add("time", Better::Less, subject, 1.0));
        let part = Part::new("", &table);
        let markers: Vec<_> = (0..part.subjects.len()).map(|subject| part.marker(subject)).collect();
        for (index, marker) in markers.iter().enumerate() {
            assert!(!markers[..index].contains(marker), "{index}: {markers:?}");
        }
        assert_eq!(markers[1], (Shape::Circle, INK));
    }

    #[test]
    fn the_scale_has_marks_on_both_sides_of_even() {
        let scale = Scale { low: 0.15, high: 3.0 };
        assert_eq!(scale.marks().collect::<Vec<_>>(), [0.2, 0.5, 1.0, 2.0]);
        assert_eq!((scale.x(0.15), scale.x(3.0)), (RATIOS.start, RATIOS.end));
    }
}
