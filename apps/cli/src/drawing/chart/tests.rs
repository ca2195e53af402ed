use super::*;

fn chart(points: &[[f64; 2]]) -> LineChart {
    LineChart {
        title: "Loss & more".into(),
        y_label: "nats".into(),
        series: vec![Series {
            name: "a".into(),
            points: points.to_vec(),
        }],
        ..LineChart::default()
    }
}

/// Shares of the chart's height at which columns, given as shares of its width, have the first color.
fn heights(chart: &LineChart, columns: &[f64]) -> Vec<f64> {
    let image = chart.png().unwrap();
    let [width, height] = [image.width(), image.height()].map(f64::from);
    let color = color(0);
    let color = [color.0, color.1, color.2].map(i32::from);
    let mut found = Vec::new();
    for x in columns.iter().map(|share| (width * share) as u32) {
        let is_drawn = |y: &u32| {
            let pixel = image.get_pixel(x, *y).0.map(i32::from);
            (0..3).all(|c| (color[c] - pixel[c]).abs() < 40)
        };
        let drawn = (0..image.height()).filter(is_drawn);
        found.extend(drawn.map(|y| f64::from(y) / height));
    }
    found
}

#[test]
fn lines_go_through_their_points() {
    let chart = chart(&[[0.0, 0.0], [10.0, 10.0], [20.0, 0.0]]);
    let columns: Vec<f64> = (10..100).map(|x| f64::from(x) / 100.0).collect();
    let drawn = heights(&chart, &columns);
    let highest = drawn.iter().copied().fold(1.0, f64::min);
    let lowest = drawn.iter().copied().fold(0.0, f64::max);
    // the plot reaches from 60 / 300 to 252 / 300, and 6 % of the values is free at both ends
    assert!((0.20..0.26).contains(&highest), "{highest}");
    assert!((0.76..0.83).contains(&lowest), "{lowest}");
}

#[test]
fn a_value_that_is_not_finite_interrupts_and_a_single_one_is_a_dot() {
    let points = |gap: f64| -> Vec<[f64; 2]> {
        let value = |x: f64| if (x - gap).abs() < 4.0 { f64::NAN } else { 1.0 };
        (0..=40)
            .map(|x| [f64::from(x), value(f64::from(x))])
            .collect()
    };
    assert!(!heights(&chart(&points(1000.0)), &[0.535]).is_empty());
    assert!(heights(&chart(&points(20.0)), &[0.535]).is_empty());
    let dots = chart(&[[7.0, 1.0]]).svg().unwrap();
    assert_eq!(dots.matches("<circle").count(), 1);
}

#[test]
fn an_svg_has_escaped_text_and_only_the_colors_that_a_page_knows() {
    let mut two = chart(&[[0.0, 1.0], [1.0, 2.0]]);
    two.series.push(Series {
        name: "<b>".into(),
        points: vec![[0.0, 2.0]],
    });
    let svg = two.svg().unwrap();
    assert!(svg.contains("Loss &amp; more") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
    let known: Vec<&str> = COLORS.iter().chain(&INKS).map(|pair| pair[0]).collect();
    for color in svg.split("=\"#").skip(1) {
        let color = format!("#{}", &color[..6]);
        assert!(known.contains(&color.as_str()), "{color}");
    }
}

#[test]
fn a_chart_is_described_in_words() {
    let description = chart(&[[0.0, 1.0], [9.0, 2.5]]).description();
    assert_eq!(description, "Loss & more (nats): a 2.5 at step 9");
}

#[test]
fn noisy_lines_are_smoothed_and_stay_behind() {
    let points: Vec<_> = (0..100).map(|x| [f64::from(x), f64::from(x % 2)]).collect();
    let smooth = smoothed(&points);
    assert!(
        smooth[3..97]
            .iter()
            .all(|point| (0.3..0.7).contains(&point[1]))
    );
    let drawn = LineChart {
        smooth: true,
        ..chart(&points)
    };
    assert_eq!(drawn.svg().unwrap().matches("opacity=\"0.25\"").count(), 1);
}

#[test]
fn odd_input_is_drawn() {
    let odd = [
        [0.0, -1.0],
        [1.0, 0.0],
        [1.0, 1e300],
        [f64::INFINITY, 1e-300],
        [2.0, 1e14],
        [3.0, 1e-300],
    ];
    for log_y in [false, true] {
        for points in [&[][..], &odd, &[[5.0, 5.0], [5.0, 5.0]], &[[0.0, f64::NAN]]] {
            let chart = LineChart {
                title: "long ".repeat(100),
                log_y,
                smooth: true,
                ..chart(points)
            };
            assert!(chart.png().is_ok() && chart.svg().is_ok());
        }
    }
    let many = LineChart {
        series: (0..40)
            .map(|run| Series {
                name: format!("runs/{run}"),
                points: Vec::new(),
            })
            .collect(),
        ..LineChart::default()
    };
    assert!(many.png().is_ok());
}

#[test]
fn a_long_legend_leaves_room_for_the_curves() {
    let mut many = chart(&[[0.0, 0.0], [10.0, 10.0], [20.0, 0.0]]);
    let columns: Vec<f64> = (10..100).map(|x| f64::from(x) / 100.0).collect();
    for count in [3, 11, 40] {
        let others = (many.series.len()..count).map(|run| Series {
            name: format!("experiments/with/a/rather/long/name/of-run-{run}"),
            points: Vec::new(),
        });
        let others: Vec<Series> = others.collect();
        many.series.extend(others);
        let drawn = heights(&many, &columns);
        let highest = drawn.iter().copied().fold(1.0, f64::min);
        let lowest = drawn.iter().copied().fold(0.0, f64::max);
        let pixels = (lowest - highest) * f64::from(many.size()[1]);
        assert!(pixels > 100.0, "{count} runs: {pixels} pixels");
    }
}
