"""The steps of the web dataset in their order. What is done is not done again."""

from wss_data.pipeline.class_groups import cosegment, cosegment_again
from wss_data.pipeline.summary import left_out, summary_table, without_mask, write_dataset_sheets
from wss_data.pipeline.web_dataset import build, screen_dataset
