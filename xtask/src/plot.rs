//! Pictures of what benches measured: for each thing a point of ours and one of the peer's,
//! with the least and greatest of the repeats, on a scale of powers of ten.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::measure::Measure;

/// What one picture shows.
struct Plot {
    /// Name of the file, without its ending.
    name: &'static str,
    title: &'static str,
    /// Of which bench.
    bench: &'static str,
    /// Only measures whose names end so; the rest of the name is the row's.
    ending: &'static str,
}

const fn plot(name: &'static str, title: &'static str, ending: &'static str) -> Plot {
    Plot {
        name,
        title,
        bench: "link",
        ending,
    }
}

const PLOTS: &[Plot] = &[
    plot("link-rate", "Off the rate of the link, %", ": off the rate"),
    plot(
        "link-parts",
        "Two slices, 3 to 1: off the part, at most, %",
        ": off its part, at most",
    ),
    plot(
        "link-policies",
        "20 policies by chance: the slice that is most off, %",
        ": the slice that is most off its rate",
    ),
    plot(
        "link-used",
        "20 policies by chance: used of what may be, %",
        ": used of what may be",
    ),
    plot(
        "link-redivided",
        "A slice joins or leaves: until all have their parts, ms",
        ", until all have their parts",
    ),
    plot(
        "link-packet",
        "A packet of many slices by turns, beyond one without a shaper, ns",
        " by turns, beyond one without a shaper",
    ),
    plot(
        "link-median",
        "A packet every 10 ms beside 8 TCP flows of its slice, 10 Mbit/s: median delay, ms",
        ": median delay",
    ),
    plot(
        "link-99",
        "The same: 99 of 100 delays below, ms",
        ": 99 of 100 delays below",
    ),
];

const WIDTH: u32 = 820;
const ROW: u32 = 44;
const NAMES: u32 = 300;
const OURS: RGBColor = RGBColor(0, 90, 181);
const PEERS: RGBColor = RGBColor(220, 50, 32);
const GOAL: RGBColor = RGBColor(160, 160, 160);
/// Less is drawn as this.
const LEAST: f64 = 0.001;

/// Writes those pictures for which there are measures.
///
/// # Errors
/// A file cannot be written.
pub fn write(directory: &Path, measures: &[Measure]) -> Result<Vec<String>> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let mut written = Vec::new();
    for plot in PLOTS {
        let rows: Vec<(&str, &Measure)> = measures
            .iter()
            .filter(|measure| measure.bench == plot.bench && measure.ours.is_some())
            .filter_map(|measure| Some((measure.measure.strip_suffix(plot.ending)?, measure)))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let name = format!("{}.svg", plot.name);
        let path = directory.join(&name);
        let text = draw(plot.title, &rows).map_err(|error| anyhow!("draw {name}: {error}"))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        written.push(name);
    }
    Ok(written)
}

type Drawn<T> = Result<T, Box<dyn std::error::Error>>;

fn draw(title: &str, rows: &[(&str, &Measure)]) -> Drawn<String> {
    let count = u32::try_from(rows.len())?;
    let mut text = String::new();
    {
        let size = (WIDTH, ROW * count + 110);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        let (least, most) = range(rows);
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(30)
            .y_label_area_size(NAMES)
            .build_cartesian_2d((least..most).log_scale(), f64::from(count)..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_label_formatter(&|value| number(*value))
            .light_line_style(RGBColor(240, 240, 240))
            .draw()?;
        let peer = rows.iter().find_map(|(_, one)| one.peer_name.as_deref());
        for ((name, measure), at) in rows.iter().zip(0_u32..) {
            let middle = f64::from(at) + 0.5;
            let place = chart.backend_coord(&(least, middle));
            let style = ("sans-serif", 13)
                .into_text_style(&area)
                .pos(Pos::new(HPos::Right, VPos::Center));
            area.draw_text(name, &style, (place.0 - 8, place.1))?;
            let goal = measure.goal.as_deref().and_then(goal);
            if let Some(goal) = goal.filter(|goal| (least..most).contains(goal)) {
                let line = vec![(goal, f64::from(at) + 0.05), (goal, f64::from(at) + 0.95)];
                chart.draw_series([PathElement::new(line, GOAL.stroke_width(2))])?;
            }
            let ours = (measure.ours, measure.spread, OURS, middle - 0.16);
            let peers = (measure.peer, measure.peer_spread, PEERS, middle + 0.16);
            for (value, spread, color, height) in [ours, peers] {
                let Some(value) = value else { continue };
                let inside = |value: f64| value.clamp(least, most);
                if let Some((low, high)) = spread {
                    let line = vec![(inside(low), height), (inside(high), height)];
                    chart.draw_series([PathElement::new(line, color.stroke_width(2))])?;
                }
                let point = Circle::new((inside(value), height), 5, color.filled());
                chart.draw_series([point])?;
                let place = chart.backend_coord(&(inside(value), height));
                let style = ("sans-serif", 11)
                    .into_text_style(&area)
                    .color(&color)
                    .pos(Pos::new(HPos::Center, VPos::Bottom));
                area.draw_text(&number(value), &style, (place.0, place.1 - 5))?;
            }
        }
        legend(&area, size.1, peer)?;
        area.present()?;
    }
    Ok(text)
}

fn legend(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    height: u32,
    peer: Option<&str>,
) -> Drawn<()> {
    let bottom = i32::try_from(height)? - 16;
    let words = [
        ("slice", OURS, 12),
        (peer.unwrap_or("nobody"), PEERS, 80),
        ("goal", GOAL, 210),
    ];
    for (word, color, left) in words {
        area.draw(&Circle::new((left, bottom), 5, color.filled()))?;
        let style = ("sans-serif", 12)
            .into_text_style(area)
            .pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(word, &style, (left + 10, bottom))?;
    }
    Ok(())
}

/// Powers of ten around all that is drawn.
fn range(rows: &[(&str, &Measure)]) -> (f64, f64) {
    let values = rows.iter().flat_map(|(_, measure)| {
        let spreads = [measure.spread, measure.peer_spread].into_iter().flatten();
        let ends = spreads.flat_map(|(low, high)| [low, high]);
        ends.chain(measure.ours).chain(measure.peer)
    });
    let values: Vec<f64> = values.map(|value| value.max(LEAST)).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(LEAST, f64::max);
    let (least, most) = (least.log10().floor(), (most * 1.1).log10().ceil());
    (10_f64.powf(least), 10_f64.powf(most.max(least + 1.0)))
}

/// The number of a goal that is no ratio.
fn goal(words: &str) -> Option<f64> {
    let number = words
        .strip_prefix("at most ")
        .or_else(|| words.strip_prefix("at least "))?;
    number.parse().ok()
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        _ => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PLOTS, draw, goal, number};
    use crate::measure::Measure;

    #[test]
    fn a_row_has_both_points_their_numbers_and_the_goal() {
        let line = r#"{"bench":"link","measure":"10 Mbit/s, TCP & UDP: off the rate","unit":"%","ours":0.08,"peer":5.6,"peer_name":"HTB","ratio":0.1,"goal":"at most 1","met":true,"kernel":"6.12","spread":[0.02,0.3],"peer_spread":[4.0,7.0]}"#;
        let measure: Measure = serde_json::from_str(line).unwrap();
        let text = draw("Off", &[("10 Mbit/s, TCP & UDP", &measure)]).unwrap();
        for part in ["0.08", "5.6", "10 Mbit/s, TCP &amp; UDP", "HTB", "goal"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn names_of_plots_are_their_own() {
        let mut names: Vec<&str> = PLOTS.iter().map(|plot| plot.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PLOTS.len());
    }

    #[test]
    fn a_ratio_is_no_place_on_the_scale() {
        assert_eq!(goal("at most 1.5"), Some(1.5));
        assert_eq!(goal("ratio at most 1"), None);
        assert_eq!(
            [0.0101, 10.0, 12.34, 1234.5].map(number),
            ["0.01", "10", "12.3", "1234"]
        );
    }
}
