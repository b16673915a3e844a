"""What happens in the lake, on Ray: index what arrived, load telemetry, align frames with sensors into datasets."""
