package main

import (
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

var (
	hostColor  = color.RGBA{0x1f, 0x6f, 0xeb, 0xff}
	peerColor  = color.RGBA{0x9a, 0xa4, 0xb2, 0xff}
	floorColor = color.RGBA{0xd0, 0xd7, 0xde, 0xff}
)

// draw writes a bar chart of the first column, if there is anything to show.
func draw(o Outcome, path string) error {
	p := plot.New()
	what := o.Columns[0]
	p.Title.Text = o.Title + ": " + heads[what]
	p.Title.Padding = vg.Points(8)
	p.X.Min = 0
	var names []string
	standings := slices.DeleteFunc(slices.Clone(o.Servers), func(s *Standing) bool { return len(s.Rounds) == 0 })
	if len(standings) == 0 {
		return nil
	}
	slices.Reverse(standings) // the axis goes upwards
	for i, s := range standings {
		v := s.Medians[what]
		bar, err := plotter.NewBarChart(plotter.Values{v}, vg.Points(14))
		if err != nil {
			return err
		}
		bar.Horizontal, bar.XMin = true, float64(i)
		bar.LineStyle.Width = 0
		bar.Color = peerColor
		switch {
		case isHost(s.Server):
			bar.Color = hostColor
		case s.Server == "raw":
			bar.Color = floorColor
		}
		labels, err := plotter.NewLabels(plotter.XYLabels{
			XYs: plotter.XYs{{X: v, Y: float64(i)}}, Labels: []string{" " + number(v)},
		})
		if err != nil {
			return err
		}
		labels.TextStyle[0].YAlign = -0.5
		p.Add(bar, labels)
		p.X.Max = max(p.X.Max, v*1.12)
		names = append(names, s.Server)
	}
	p.NominalY(names...)
	p.X.Tick.Marker = plot.TickerFunc(func(low, high float64) []plot.Tick {
		ticks := plot.DefaultTicks{}.Ticks(low, high)
		for i := range ticks {
			if ticks[i].Label != "" {
				ticks[i].Label = number(ticks[i].Value)
			}
		}
		return ticks
	})
	return p.Save(vg.Points(620), vg.Points(float64(60+24*len(names))), path)
}
